"""Where a text mentions a person: by full, first or last name, or by an alias."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

from expunge.teachers.common_names import opens_sentence
from expunge.teachers.name_parts import NameParts, is_initial, is_small, plain, word_set, words_of
from expunge.teachers.names import Subject

Form = Literal["full", "first", "last", "alias", "other"]

_APOSTROPHES = "'\u2019\u2018\u02bc"
_HYPHENS = "-\u2010\u2011\u2012\u2013"
_GAP = (
    r"(?:[^\S\n]+|[^\S\n]*\n[^\S\n]*)"  # white space with one line break at most: an empty line ends what went before
)
_BETWEEN = rf"(?:{_GAP}|(?<=\.))"  # "P.A. Yeomans"
_MIDDLE = rf"(?:[^\W\d_]\.|[^\W\d_][\w{_APOSTROPHES}{_HYPHENS}]+)"
_HYPHEN = r"[-\u2010\u2011]"
_HYPHEN_BEFORE = re.compile(rf"\b[A-Z]\w*{_HYPHEN}$")
_HYPHEN_AFTER = re.compile(rf"{_HYPHEN}[A-Z]")
_PRONOUN = re.compile(r"\b(?:he|him|his|himself|she|hers?|herself|they|them|theirs?|themsel(?:f|ves))\b", re.IGNORECASE)
_NEXT_WORD = re.compile(rf"{_GAP}([^\W\d_]\w*)")
# scripts that set no space between words, by how the names of their characters begin
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
_NO_NAMES = word_set(
    "i a an and as at but by for from had has he her his in is it my of on or our she so that the their then they this "
    "to was we were what when where which who why will with would you your"
)


@dataclass(frozen=True, slots=True)
class Mention:
    """``text[start:end]`` is ``surface``; ``owner`` is the subject's name, or the other entity it belongs to."""

    start: int
    end: int
    form: Form
    surface: str
    owner: str


def find_mentions(text: str, subject: Subject) -> tuple[Mention, ...]:
    """The mentions of a subject and of its other entities in order, none of them overlapping; the longest win.

    A form is found as a word of its own ("Ann" is not in "Annual"; an ending such as 's stays outside), with accents
    or without, with any hyphen or apostrophe, and with one line break or several spaces inside. It may be in its own
    letter case, with capitals at the beginning of words, or all in capitals; the full name and other entities of
    several words in any case. The full name is also found with given names left out, or as initials, or with up to two
    more between ("Martin C. Gutzwiller"), and with hyphens ("Martin-Gutzwiller Street"). A first name with another name
    after it, and a first or last name within another hyphenated one, is somebody else's ("Martin Luther", "Jean-Paul").
    A last name is found with any other name before it, as a relative's would give the subject away, unless the whole
    name is among those that the subject's ``ignored`` spares. A name among the ``common`` ones is not found where it
    begins a sentence.
    """
    return tuple(found for found, _ in _find(text, subject)[0])


def spared_mentions(text: str, subject: Subject) -> tuple[Mention, ...]:
    """What would be a mention, and is not counted as one: names of others who bear the last name, and common words at
    the beginning of a sentence."""
    return _find(text, subject)[1]


def match_counts(text: str, subject: Subject) -> dict[str, int]:
    """How often each form of the subject, and each other entity, is mentioned; 0 for those that are not.

    To be looked at before a run: a form that is a common word too has more matches than the person has mentions.
    """
    counts = dict.fromkeys((*subject.forms, *dict(subject.others)), 0)
    for _, written in _find(text, subject)[0]:
        counts[written] += 1
    return counts


def find_pronouns(text: str) -> tuple[tuple[int, int], ...]:
    """The (start, end) of English pronouns of the third person that can stand for a person, whomever they stand for."""
    return tuple(match.span() for match in _PRONOUN.finditer(text))


@dataclass(frozen=True, slots=True)
class _Form:
    """One way to mention: ``written`` is the form it is counted under, ``words`` are those of the owner's name."""

    kind: Form
    written: str
    owner: str
    words: frozenset[str]
    pattern: re.Pattern[str]
    fits: Callable[[_Form, re.Match[str]], bool]
    spared: bool = False  # another's name


def _find(text: str, subject: Subject) -> tuple[list[tuple[Mention, str]], tuple[Mention, ...]]:
    """The mentions in order, each with the form it is counted under, and what is spared."""
    common = {plain(name) for name in subject.common}
    found = [
        (
            Mention(match.start(), match.end(), form.kind, match[0], form.owner),
            form.written,
            form.spared or (plain(match[0]) in common and opens_sentence(text, match.start())),
        )
        for form in _forms(subject)
        for match in _matches(form, text)
    ]
    found.sort(key=lambda one: (one[0].start - one[0].end, one[0].start))
    taken = bytearray(len(text))
    kept, spared = [], []
    for mention, written, is_spared in found:
        if not any(taken[mention.start : mention.end]):
            taken[mention.start : mention.end] = b"\1" * (mention.end - mention.start)
            if is_spared:
                spared.append(mention)
            else:
                kept.append((mention, written))
    return sorted(kept, key=lambda one: one[0].start), tuple(sorted(spared, key=lambda one: one.start))


def _matches(form: _Form, text: str) -> Iterator[re.Match[str]]:
    start = 0
    while match := form.pattern.search(text, start):
        if _apart(text, match) and form.fits(form, match) and not _somebody_else(text, match, form):
            yield match
            start = match.end()
        else:
            start = match.start() + 1


@lru_cache(maxsize=256)
def _forms(subject: Subject) -> tuple[_Form, ...]:
    """The ways to mention a subject. Where two find the same, the first one here counts."""
    parts, counted = subject.parts, set(subject.forms)
    words = frozenset(plain(word) for word in subject.words)
    forms: list[_Form] = []

    def add(kind: Form, written: str, pattern: str, fits: Callable[[_Form, re.Match[str]], bool]) -> None:
        owner = written if kind == "other" else subject.name
        forms.append(_Form(kind, written, owner, words, re.compile(pattern, re.IGNORECASE), fits))

    for full in parts.fulls:
        if full in counted:
            add("full", full, _phrase(full), _case_of_whole(full))
            if len(words_of(full)) > 1:
                add("full", full, _HYPHEN.join(map(_letters, words_of(full))), _all_are_names)
    if parts.fulls[0] in counted and parts.lasts:
        add("full", parts.fulls[0], _variants(parts), _all_are_names)
    for last in parts.lasts:
        if last in counted:
            add("last", last, _phrase(last), _case_fits)
    if parts.first is not None and parts.first in counted:
        more = "".join(rf"(?:{_BETWEEN}{_given(other)})?" for other in parts.given[1:])
        add("first", parts.first, _phrase(parts.first) + more, _case_fits)
    known = {plain(form.written): form.kind for form in forms}
    written = {form.written for form in forms}
    for alias in subject.aliases:
        if alias in counted and alias not in written:  # a part of the name in another letter case is that part
            add(known.get(plain(alias), "alias"), alias, _phrase(alias), _case_fits)
    for title, _ in subject.others:
        add("other", title, _phrase(title), _case_of_whole(title))
    for name in subject.ignored:
        if len(words_of(name)) > 1:  # a part of the name is left out above
            pattern = re.compile(_phrase(name), re.IGNORECASE)
            forms.append(_Form("last", name, subject.name, words, pattern, _any_case, spared=True))
    return tuple(forms)


def _phrase(written: str) -> str:
    """What finds a form however it is spaced."""
    words = words_of(written)
    pattern = _letters(words[0])
    for before, word in pairwise(words):
        pattern += (_BETWEEN if before.endswith(".") else _GAP) + _letters(word)
    return pattern


def _letters(word: str) -> str:
    return "".join(map(_letter, word))


def _letter(letter: str) -> str:
    if letter in _APOSTROPHES:
        return f"[{_APOSTROPHES}]"
    if letter in _HYPHENS:
        return rf"(?:[{_HYPHENS}]{_GAP}?|{_GAP})"
    apart = unicodedata.normalize("NFD", letter)
    ways = [apart, letter] + ([apart[0]] if apart[0].isascii() and apart != letter else [])
    return re.escape(letter) if apart == letter else f"(?:{'|'.join(map(re.escape, ways))})"


def _variants(parts: NameParts) -> str:
    """What finds a last name with at least one given name, or its initial, before it."""
    given = parts.given
    ways = []
    for start in range(len(given)):
        way = _given(given[start])
        way += "".join(rf"(?:{_BETWEEN}{_given(name)})?" for name in given[start + 1 :])
        ways.append(way + (rf"(?:{_BETWEEN}{_MIDDLE}){{0,2}}?" if start == 0 else ""))
    if len(given) > 1 and all(map(is_initial, given)):  # one such word before a last name may be any word
        ways.append(_GAP.join(rf"{_letter(name[0])}\w+" for name in given))
    last = "|".join(_phrase(name) for name in sorted(parts.lasts, key=len, reverse=True))
    return rf"(?:{'|'.join(ways)}){_BETWEEN}(?:{last})"


def _given(name: str) -> str:
    """A given name or its initial."""
    letter = _letter(name[0])
    return rf"{letter}\.?" if is_initial(name) else rf"(?:{_letters(name)}|{letter}\.)"


def _apart(text: str, match: re.Match[str]) -> bool:
    """Whether a match is no part of a longer word."""
    start, end = match.span()
    before, after = text[start - 1 : start], text[end : end + 1]
    return not (_of_word(before) and _spaced(text[start])) and not (_of_word(after) and _spaced(text[end - 1]))


def _of_word(character: str) -> bool:
    return bool(character) and (
        character.isalnum() or character == "_" or unicodedata.category(character).startswith("M")
    )


def _spaced(character: str) -> bool:
    return character.isascii() or not unicodedata.name(character, "").startswith(_UNSPACED)


def _case_of_whole(written: str) -> Callable[[_Form, re.Match[str]], bool]:
    """Several words are a name in whatever case; a single one may be a common word."""
    return _any_case if len(words_of(written)) > 1 else _case_fits


def _any_case(form: _Form, match: re.Match[str]) -> bool:  # noqa: ARG001
    return True


def _all_are_names(form: _Form, match: re.Match[str]) -> bool:
    words = words_of(match[0])
    names = all(
        is_small(word) or (word[0].isupper() and (is_initial(word) or word.casefold() not in _NO_NAMES))
        for word in words
    )
    counts = Counter(map(plain, words))
    return names and all(counts[word] < 2 for word in form.words)  # twice: the name begins anew


def _case_fits(form: _Form, match: re.Match[str]) -> bool:
    if match[0].isupper():
        return True
    theirs, ours = _case_words(match[0]), _case_words(form.written)
    # words beyond those written are more given names
    return all(map(_word_case_fits, ours, theirs)) and all(word[0].isupper() for word in theirs[len(ours) :])


def _word_case_fits(written: str, surface: str) -> bool:
    ways = [written, written.upper(), written[0].upper() + written[1:], written.capitalize()]
    if is_small(written):
        ways.append(written.lower())
    return _capitals(surface) in map(_capitals, ways)


def _capitals(word: str) -> list[bool]:
    return [letter.isupper() for letter in unicodedata.normalize("NFD", word) if letter.isalpha()]


def _case_words(text: str) -> list[str]:
    return [piece for word in words_of(text) for piece in re.split(f"[{_HYPHENS}]", word) if piece]


def _somebody_else(text: str, match: re.Match[str], form: _Form) -> bool:
    """Whether a first or last name is part of another's name."""
    if form.kind not in ("first", "last") or form.spared:
        return False
    if _HYPHEN_BEFORE.search(text[: match.start()][-40:]) or _HYPHEN_AFTER.match(text, match.end()):
        return True
    if form.kind == "last":
        return False
    following = _NEXT_WORD.match(text, match.end())
    if following is None or match[0].isupper() or plain(following[1]) in form.words:
        return False
    return following[1][0].isupper() and following[1].casefold() not in _NO_NAMES
