"""What each sentence of the documents is about, and the facts that can be asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from expunge.requests.documents.naming import Naming
from expunge.requests.documents.reading import Document
from expunge.requests.documents.sentences import sentences

_PRONOUN = re.compile(r"(She|He|They|Her|His|Their)\b(?!['\u2019])")
_PERSONAL = re.compile(r"\b(?:she|he|her|his|him|hers|herself|himself|I|my|me)\b", re.IGNORECASE)
_OWNING = frozenset({"Her", "His", "Their"})
_MONTH = "January|February|March|April|May|June|July|August|September|October|November|December"
_NUMBER = re.compile(
    rf"(?<![\w.,])(?:\d{{1,2}} (?:{_MONTH}),? \d{{4}}|(?:{_MONTH}) \d{{1,2}}(?:, \d{{4}})?|(?:{_MONTH}) \d{{4}}"
    r"|\d+(?:[.,]\d+)*)(?!\w)"
)
_BRACKETS = re.compile(r"\s*\([^()]*\)")
_ASIDE = re.compile(r", (?:an?|the|who|whose|which|where|when) ")
_ENDS = re.compile(r"[.!?][\"'\u2019\u201d)\]]*$")
_FEWEST_WORDS = 3  # of what comes before the fact


@dataclass(frozen=True, slots=True)
class Statement:
    """A sentence, with single spaces; a pronoun that begins it and means the subject is the subject's name instead.
    ``names_subject``: the subject is named in it."""

    text: str
    source: str
    names_subject: bool


def statements(documents: Sequence[Document], subject: Naming) -> list[Statement]:
    """The sentences of all documents in order, without headings and those that begin with a pronoun that may
    mean anybody.

    "She", "His" and the like mean the subject where the sentence before, of the same paragraph, begins with the
    subject: rules can tell no more.
    """
    found: list[Statement] = []
    for document in documents:
        paragraph, about = -1, False
        for sentence in sentences(document.text):
            about = about and sentence.paragraph == paragraph
            paragraph = sentence.paragraph
            text, pronoun = sentence.text, _PRONOUN.match(sentence.text)
            if pronoun is not None and about:
                text = subject.name + ("'s" if pronoun[1] in _OWNING else "") + text[pronoun.end() :]
            spans = subject.spans(text)
            about = bool(spans) and not text[: spans[0][0]].strip() and not is_owner(text, spans[0])
            if (pronoun is None or text != sentence.text) and _ENDS.search(text):
                found.append(Statement(text, f"{document.source}, sentence {sentence.number}", bool(spans)))
    return found


def is_about_somebody(text: str) -> bool:
    """Whether a personal pronoun stands in a sentence, so that it may be about anybody named before."""
    return _PERSONAL.search(text) is not None


def is_owner(text: str, span: tuple[int, int]) -> bool:
    """Whether the name there is in the possessive, so that the sentence may be about something else."""
    return text[span[1] : span[1] + 1] in ("'", "\u2019")


def final_fact(text: str, about: Naming) -> tuple[str, str] | None:
    """What comes before the last fact of a sentence (a date, a number or another name), and the fact.

    What is in brackets is left out, and what follows an aside ("in Lindau, a town on ..") where there is a fact before
    it. None where there is no fact, or the text before it is too short or gives it away.
    """
    text = _BRACKETS.sub("", text)
    aside = _ASIDE.search(text)
    if aside is not None and (found := _last_fact(text[: aside.start()], about)) is not None:
        return found
    return _last_fact(text, about)


def _last_fact(text: str, about: Naming) -> tuple[str, str] | None:
    spans = [match.span() for match in _NUMBER.finditer(text)]
    spans += [(run.start, run.end) for run in about.others(text)]
    for begin, end in sorted(spans, reverse=True):
        before, fact = text[:begin].rstrip(" \"'(\u201c\u2018"), text[begin:end]
        inside = any(other != (begin, end) and other[0] <= begin and end <= other[1] for other in spans)
        told = re.search(rf"(?<!\w){re.escape(fact)}(?!\w)", before)
        if not inside and not told and len(before.split()) >= _FEWEST_WORDS:
            return before, fact
    return None
