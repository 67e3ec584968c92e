"""A text with a person's name replaced by a substitute's, and where each mention went."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from expunge.teachers.mentions import Form, Mention, find_mentions
from expunge.teachers.name_parts import NameParts, is_initial, is_small, is_title, name_parts, plain, words_of
from expunge.teachers.names import Subject


@dataclass(frozen=True, slots=True)
class SwapSpan:
    """A mention at ``[start, end)`` of the original text that is at ``[start_swapped, end_swapped)`` of the other."""

    start: int
    end: int
    start_swapped: int
    end_swapped: int
    form: Form
    owner: str


@dataclass(frozen=True, slots=True)
class Swapped:
    """Two texts that are equal outside of ``spans``, which are in order."""

    original: str
    text: str
    spans: tuple[SwapSpan, ...]


def swap(text: str, subject: Subject, substitute: str, others: Mapping[str, str] | None = None) -> Swapped:
    """``text`` about ``substitute`` instead of ``subject``.

    The full name becomes the substitute's full name, the first and the last name (with its particle) the first and the
    last; initials become initials. An alias made of such parts is replaced part by part, any other one by the full
    name. What the substitute has no part for is left out. Words in capitals or in small letters, unlike the declared
    form, stay so, and line breaks between words stay where both names have as many words. The subject's own name as
    substitute changes nothing.

    Args:
        others: what stands in for each of the subject's other entities; by default the first substitute of each.
            Entities that it does not name stay.
    """
    others = subject.others_for(0) if others is None else others
    own = substitute == subject.name
    declared = {*subject.forms, *others}
    pieces: list[str] = []
    spans: list[SwapSpan] = []
    done = length = 0
    for mention in find_mentions(text, subject):
        if mention.form == "other":
            if mention.owner not in others:
                continue
            new = others[mention.owner]
        else:
            new = mention.surface if own else _substituted(mention, subject, substitute)
        if mention.surface not in declared:
            new = _written_like(mention.surface, new)
        before = text[done : mention.start]
        pieces += [before, new]
        start = length + len(before)
        length = start + len(new)
        spans.append(SwapSpan(mention.start, mention.end, start, length, mention.form, mention.owner))
        done = mention.end
    return Swapped(text, "".join([*pieces, text[done:]]), tuple(spans))


def _substituted(mention: Mention, subject: Subject, substitute: str) -> str:
    """What stands in for a mention, before its letter case is seen to."""
    theirs, ours = name_parts(substitute), subject.parts
    if mention.form == "full" and plain(mention.surface) in map(plain, ours.fulls):
        compound = not re.search(r"\s", mention.surface) and len(subject.words) > 1
        hyphen = re.search(r"[-\u2010\u2011]", mention.surface) if compound else None
        return substitute.strip() if hyphen is None else hyphen[0].join(substitute.split())
    if mention.form == "first":
        return " ".join(theirs.given[: len(words_of(mention.surface))])
    if mention.form == "last":
        return theirs.last or theirs.fulls[0]
    initials = _initials(mention.surface, ours, theirs)
    if initials is not None:
        return initials
    parts = _part_by_part(words_of(mention.surface), ours, theirs)
    return substitute.strip() if parts is None else parts


def _initials(surface: str, ours: NameParts, theirs: NameParts) -> str | None:
    """Initials of the substitute in the manner of ``surface`` ("J. K.", "J.K.", "JK"); None if it has other words."""
    words = words_of(surface)
    letters = "".join(word[0] for word in words) if all(map(is_initial, words)) else surface
    given = "".join(name[0] for name in ours.given)
    whole = given + (_last_initial(ours) or "")
    if not letters.isupper() or letters not in (given.upper(), whole.upper()):
        return None
    their_letters = [name[0] for name in theirs.given]
    last = _last_initial(theirs)
    if letters == whole.upper() and last is not None:
        their_letters = [*their_letters[: len(ours.given)], last]
    dot = "." if "." in surface else ""
    gap = " " if re.search(r"\s", surface) else ""
    return gap.join(letter.upper() + dot for letter in their_letters[: len(letters)])


def _last_initial(parts: NameParts) -> str | None:
    return next((letter for letter in parts.lasts[-1] if letter.isalpha()), None) if parts.lasts else None


def _part_by_part(words: tuple[str, ...], ours: NameParts, theirs: NameParts) -> str | None:
    """Each given name or initial, and the last name, by the substitute's, titles before them kept; None where a word is
    none of these."""
    start = next((n for n, word in enumerate(words) if not is_title(word)), len(words))
    titles, names = words[:start], words[start:]
    lasts = {plain(last) for last in ours.lasts}
    tail = next((n for n in range(len(names)) if plain("".join(names[n:])) in lasts), len(names))
    result: list[str] = []
    place = -1
    for word in names[:tail]:
        found = _place(word, ours.given, place + 1)
        if found is None:
            return None
        place = found
        if place < len(theirs.given):
            new = theirs.given[place]
            result.append(f"{new[0]}." if is_initial(word) and not is_initial(new) else new)
    if tail < len(names) and theirs.last:
        result.append(theirs.last)
    return " ".join((*titles, *result)) if result else None


def _place(word: str, given: tuple[str, ...], start: int) -> int | None:
    """Which given name, from ``start`` on, a word is, or is the initial of."""
    for place in range(start, len(given)):
        if plain(word) == plain(given[place]) or (is_initial(word) and plain(word) == plain(given[place])[:1]):
            return place
    return None


def _written_like(surface: str, new: str) -> str:
    """``new`` in the letter case of ``surface``; where it has as many words, word by word and with its white space."""
    words, gaps, theirs = surface.split(), re.findall(r"\s+", surface), new.split()
    if len(words) == len(theirs):
        new = "".join(_cased_like(word, one) + gap for word, one, gap in zip(words, theirs, [*gaps, ""], strict=True))
    else:
        new = _cased_like(surface, new)
    if is_small(words[0]) and surface[0].isupper():  # a particle that begins a sentence
        new = new[0].upper() + new[1:]
    return new


def _cased_like(surface: str, new: str) -> str:
    if surface.isupper() and any(len(word.rstrip(".")) > 1 for word in words_of(surface)):
        return new.upper()
    if surface.islower() and not is_small(surface):
        return new.lower()
    return new
