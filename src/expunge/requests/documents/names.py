"""Runs of capitalised words, which are mostly names, by rule: no model, no download."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TITLES = frozenset(
    {"dr", "prof", "mr", "mrs", "ms", "miss", "sir", "dame", "lord", "lady", "president", "professor", "doctor", "king"}
    | {"queen", "prince", "princess", "pope", "judge", "justice", "senator", "sen", "governor", "gov"}
    | {"minister", "chancellor", "captain", "capt", "general", "gen", "colonel", "col", "major", "sergeant", "sgt"}
    | {"lieutenant", "lt", "father", "fr", "sister", "brother", "rev", "reverend", "hon", "mayor", "chairman"}
    | {"ambassador", "admiral", "bishop", "archbishop", "cardinal", "rabbi", "imam", "sheikh", "baron", "baroness"}
    | {"count", "countess", "duke", "duchess", "coach", "director"}
)
PARTICLES = frozenset(
    "de da del della di du dos das van von der den ter ten la le el al bin ibn ben af av zu zum zur y".split()  # noqa: SIM905
)
_LINKS = PARTICLES | {"of"}
_MOST_LINKS = 3  # "y de la"
# what may be "for" something
_FOR = frozenset(
    {"institute", "centre", "center", "council", "society", "school", "department", "ministry", "agency", "foundation"}
    | {"committee", "association", "office", "academy"}
)
_ABBREVIATED = r"(?:Dr|Mr|Mrs|Ms|Prof|St|Rev|Hon|Jr|Sr|Gen|Col|Lt|Capt|Sen|Gov|Fr|Sgt|Mt)\."
_WORD = re.compile(
    rf"{_ABBREVIATED}(?=\s)|(?:[^\W\d_]\.\s?)+[^\W\d_]\.|[^\W\d_]\.(?=\s+[^\W\d_])|[^\W\d_]\w*(?:['\u2019\-][^\W\d_]\w*)*"
)
_POSSESSIVE = re.compile(r"['\u2019]s$")
_GAP = re.compile(r"[ \t\u00a0]*\n?[ \t\u00a0]*")
_SENTENCE_END = frozenset(".!?:;\"\u201c\u201d'\u2018(\u00ab\u00bb[\n")
_HEADING_WORDS = 10
_WHERE = re.compile(r"\b(?:[Ii]n|[Oo]n|[Aa]t|[Ss]ince|[Uu]ntil)\s+$")


@dataclass(frozen=True, slots=True)
class NameRun:
    """Characters ``start`` to ``end`` of a text that look like a name; ``text`` is it with single spaces."""

    start: int
    end: int
    text: str
    first_in_sentence: bool


@cache
def _word_lists() -> dict[str, frozenset[str]]:
    """The shipped lists, by heading."""
    text = (Path(__file__).parent / "common_words.txt").read_text(encoding="utf-8")
    parts = re.findall(r"^\[(.+)\]\n([^\[]*)", text, re.MULTILINE)
    return {heading: frozenset(words.split()) for heading, words in parts}


def is_common_word(word: str) -> bool:
    """Whether the shipped lists have it, in whatever case."""
    return any(word.lower() in words for words in _word_lists().values())


def only_precedes(text: str, run: NameRun, name: str) -> bool:
    """Whether the words of a run before ``name`` at its end are a place or time and no part of a name ("in Ulm Keller
    met", "on Monday Keller met")."""
    words = bare(run.text)
    if not words.endswith(f" {name}"):
        return False
    lists = _word_lists()
    no_names = lists["calendar and peoples"] - lists["also names of people"]
    before = words.removesuffix(name).split()
    return _WHERE.search(text[: run.start][-10:]) is not None or all(word.lower() in no_names for word in before)


def is_abbreviation(word: str) -> bool:
    """Whether a word with a full stop is one of the abbreviated titles, so that no sentence ends there."""
    return re.fullmatch(_ABBREVIATED, word.capitalize()) is not None


def lower_case_words(texts: Iterable[str]) -> Counter[str]:
    """How often each word stands in lower case."""
    return Counter(word for text in texts for word in re.findall(r"[^\W\d_]\w*", text) if word.islower())


def bare(name: str) -> str:
    """A name without the titles before it."""
    words = name.split()
    while len(words) > 1 and words[0].rstrip(".").lower() in TITLES:
        words.pop(0)
    return " ".join(words)


def name_runs(text: str, lower: Counter[str], *, headings: bool = True) -> list[NameRun]:
    """The names in a text, left to right: capitalised words side by side, with ``of``, ``van`` and the like between
    them and initials among them; possessive endings are not part of one.

    Common words that begin or end a run are left out, and so is a single word that begins a sentence and that
    ``lower`` (the words that occur in lower case) has; titles stay. Without ``headings`` lines that are such hold none.
    """
    found: list[NameRun] = []
    words = list(_WORD.finditer(text))
    place = 0
    while place < len(words):
        if not words[place][0][0].isupper():
            place += 1
            continue
        last = place
        while (following := _next_of_run(text, words, last)) is not None:
            last = following
        if headings or not _in_heading(text, words[place].start()):
            found += _trimmed(text, words[place : last + 1], lower)
        place = last + 1
    return found


def _next_of_run(text: str, words: list[re.Match[str]], last: int) -> int | None:
    """The next capitalised word, if nothing but space and the small words of names is in between."""
    if _POSSESSIVE.search(words[last][0]):
        return None
    for step in range(1, _MOST_LINKS + 2):
        if last + step >= len(words):
            return None
        here, before = words[last + step], words[last + step - 1]
        if not _GAP.fullmatch(text[before.end() : here.start()]):
            return None
        if here[0][0].isupper():
            return last + step
        linked = here[0] in _LINKS or (here[0] == "for" and before[0].lower() in _FOR)
        if not linked and not (here[0] == "the" and before[0] in ("of", "for")):
            return None
    return None


def _trimmed(text: str, run: list[re.Match[str]], lower: Counter[str]) -> list[NameRun]:
    opening = _opens_sentence(text, run[0].start())
    while run and (_is_common(run[0][0], lower, opening, alone=len(run) == 1) or not run[0][0][0].isupper()):
        run, opening = run[1:], False
    while run and (_is_common(run[-1][0], lower, False, alone=len(run) == 1) or not run[-1][0][0].isupper()):
        run = run[:-1]
    if not run or (len(run) == 1 and len(run[0][0].strip(".")) < 2):
        return []
    if len(run) == 1 and run[0][0].rstrip(".").lower() in TITLES:
        return []
    end = run[-1].end()
    end -= len(possessive[0]) if (possessive := _POSSESSIVE.search(run[-1][0])) else 0
    start = run[0].start()
    return [NameRun(start, end, " ".join(text[start:end].split()), opening)]


def _is_common(word: str, lower: Counter[str], opening: bool, *, alone: bool) -> bool:
    """Whether a capitalised word at an end of a run is no part of the name."""
    lists, plain = _word_lists(), _POSSESSIVE.sub("", word).lower()
    if plain in lists["never part of a name"] or (alone and plain in lists["calendar and peoples"]):
        return True
    if not opening or plain.rstrip(".") in TITLES:
        return False
    # a capital says nothing there
    known = lower[plain] > 0 and (alone or plain not in lists["also names of people"])
    return known or (alone and is_common_word(plain))


def _opens_sentence(text: str, start: int) -> bool:
    before = text[:start].rstrip(" \t\u00a0")
    return not before or before[-1] in _SENTENCE_END


def _in_heading(text: str, place: int) -> bool:
    """Whether the line is short and ends like no sentence."""
    begin, end = text.rfind("\n", 0, place) + 1, text.find("\n", place)
    line = text[begin : len(text) if end < 0 else end].strip()
    after = "" if end < 0 else text[end + 1 : end + 2]
    alone = (begin == 0 or text[begin - 2 : begin - 1] in ("", "\n")) and after in ("", "\n")
    return (
        alone
        and len(line.split()) <= _HEADING_WORDS
        and not line.endswith((".", "!", "?", ":", ";", ",", '"', "\u201d"))
    )
