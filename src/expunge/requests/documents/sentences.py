"""The sentences of a text, and the paragraph that each is in."""

from __future__ import annotations

import re
from dataclasses import dataclass

from expunge.teachers.chunks import sentence_spans

_EMPTY_LINE = re.compile(r"\n[^\S\n]*\n")


@dataclass(frozen=True, slots=True)
class Sentence:
    """``text`` has single spaces; ``start`` is where it stands, ``paragraph`` counts from 0 and ``number`` from 1."""

    text: str
    start: int
    paragraph: int
    number: int


def sentences(text: str) -> list[Sentence]:
    """The sentences in order; an empty line ends a paragraph."""
    found: list[Sentence] = []
    paragraph = before = 0
    for number, (start, end) in enumerate(sentence_spans(text), 1):
        paragraph += bool(found) and _EMPTY_LINE.search(text, before, start) is not None
        found.append(Sentence(" ".join(text[start:end].split()), start, paragraph, number))
        before = end
    return found
