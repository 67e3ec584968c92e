"""What a person's name consists of: given names, and a last name with the particles before it."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache


def word_set(text: str) -> frozenset[str]:
    """The words of ``text``, which stands for a list of them."""
    return frozenset(text.split())


_TITLES = word_set(
    "dr prof professor sir dame lord lady mr mrs ms miss mx st saint rev father sister brother king queen prince "
    "princess pope emperor count countess duke duchess baron baroness gen general col colonel capt captain lt sgt "
    "president senator judge doctor"
)
_SUFFIXES = word_set("jr sr ii iii iv v vi vii viii ix x phd md esq i")
# capitals may be given names ("Ben") and are then no particles
_PARTICLES = word_set(
    "de del della dei degli di da das do dos du des d' de' la las le les los lo van von vom der den het 't ter ten te "
    "zu zur zum af av bin ibn ben bint al el ap y e i und"
)
_CAPITAL_PARTICLES = word_set("De Del Della Di Du La Le Van Von Der Den Ibn Bin Al El")
_JOINERS = frozenset({"y", "e", "i", "und"})
_EPITHETS = frozenset({"of", "the"})  # what follows says where from or how, and is no last name
_INITIAL = re.compile(r"[^\W\d_]\.?")
_JOINED_INITIALS = re.compile(r"(?:[^\W\d_]\.){2,}")


@dataclass(frozen=True, slots=True)
class NameParts:
    """A name in parts.

    Attributes:
        fulls: the ways the whole name is written: as given without a title before it, without what follows a comma,
            without a suffix ("Jr.", "III").
        given: the given names in order, initials among them. A name of one word has this one.
        lasts: the last name with its particles, then shorter ways to write it ("de Larrocha", "Larrocha"); empty for a
            name of one word, or one with an epithet ("Catherine of Bohemia").
    """

    fulls: tuple[str, ...]
    given: tuple[str, ...]
    lasts: tuple[str, ...]

    @property
    def last(self) -> str | None:
        """The last name with its particles; None where there is none."""
        return self.lasts[0] if self.lasts else None

    @property
    def first(self) -> str | None:
        """The first given name; None where it is an initial, or the whole name."""
        first = self.given[0]
        return None if is_initial(first) or first in self.fulls else first

    @property
    def count(self) -> int:
        """How many parts there are; a last name is one, however many words it has."""
        return len(self.given) + bool(self.lasts)


@lru_cache(maxsize=4096)
def name_parts(name: str) -> NameParts:
    """The parts of a person's name in reading order (given names first)."""
    whole = _without_titles(words_of(name))
    core = _without_titles(words_of(name.partition(",")[0])) or whole
    plain = core
    while len(plain) > 1 and plain[-1].rstrip(".").casefold() in _SUFFIXES:
        plain = plain[:-1]
    fulls = tuple(dict.fromkeys(" ".join(words) for words in (whole, core, plain)))
    epithet = next((n for n, word in enumerate(plain) if n and word in _EPITHETS), len(plain))
    if epithet < len(plain):
        return NameParts(fulls, plain[:epithet], ())
    if len(plain) == 1:
        return NameParts(fulls, plain, ())
    start = _last_name_start(plain)
    return NameParts(fulls, plain[:start], _lasts(plain[start:]))


def words_of(text: str) -> tuple[str, ...]:
    """The words of a name; initials written together ("P.A.") are words of their own."""
    words: list[str] = []
    for word in unicodedata.normalize("NFC", text).split():
        if _JOINED_INITIALS.fullmatch(word):
            words += [f"{letter}." for letter in word.split(".") if letter]
        else:
            words.append(word)
    return tuple(words)


def is_initial(word: str) -> bool:
    """Whether a word is one letter, with or without a full stop."""
    return _INITIAL.fullmatch(word) is not None


def is_title(word: str) -> bool:
    """Whether a word is put before names ("Dr.")."""
    return word.rstrip(".").casefold() in _TITLES


def is_small(word: str) -> bool:
    """Whether a word may be written small or with a capital in the same name ("de", "the")."""
    return word.casefold() in _PARTICLES | _EPITHETS


def plain(text: str) -> str:
    """Letters and digits alone, case and accents aside: two ways to write a name that differ in nothing else agree."""
    bare = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in bare if letter.isalnum())


def _without_titles(words: tuple[str, ...]) -> tuple[str, ...]:
    while len(words) > 1 and is_title(words[0]):
        words = words[1:]
    return words


def _is_particle(word: str) -> bool:
    return (word.islower() and word in _PARTICLES) or word in _CAPITAL_PARTICLES


def _last_name_start(words: tuple[str, ...]) -> int:
    """Where the last name begins; the first word is always a given name."""
    start = len(words) - 1
    while start > 1 and _is_particle(words[start - 1]):
        start -= 1
        if words[start] in _JOINERS and start > 1:  # "Batlle y Ordóñez"
            start -= 1
    return start


def _lasts(words: tuple[str, ...]) -> tuple[str, ...]:
    ways = [words]
    joiner = next((n for n, word in enumerate(words) if n and word in _JOINERS), None)
    if joiner is not None:
        ways.append(words[:joiner])
    for way in list(ways):
        bare = way
        while len(bare) > 1 and _is_particle(bare[0]):
            bare = bare[1:]
        ways.append(bare)
    return tuple(dict.fromkeys(" ".join(way) for way in ways if way))
