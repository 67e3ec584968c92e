"""Passages of longer texts, each asked for by how it begins, and the beginnings of texts in words or tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# a full stop, what it closes, white space, and before the next word what that opens; or an empty line
_END = re.compile(r"""[.!?\u2026]+["'\u201d\u2019\xbb)\]]*\s+(?=["'\u201c\u2018\xab(\[]*(?P<next>\w))|\n\s*\n\s*""")
_TITLES = ("mr", "mrs", "ms", "dr", "st", "prof", "rev", "gen", "col", "sgt", "lt", "capt", "mt", "vs")
_NO_END = re.compile(rf"(?:^|[^\w])(?:(?i:{'|'.join(_TITLES)})|[A-Z])\.\s+$")  # a title, or the initial of a name
_LONGEST = 60  # words of a sentence; text without full stops is taken in stretches of so many


def sentences(text: str) -> list[str]:
    """``text`` in sentences, each with the white space behind it, so that joined they are the text again.

    By rule, for languages with spaces and capitals: a full stop or its like, unless a small letter follows or it
    belongs to a common title or an initial; or an empty line. What is longer than 60 words is cut there.
    """
    found: list[str] = []
    begin = 0
    for match in _END.finditer(text):
        if not text[begin : match.start()].strip():
            continue
        goes_on = _NO_END.search(text[begin : match.end()]) or (match["next"] or "").islower()
        if match[0].count("\n") > 1 or not goes_on:
            found.append(text[begin : match.end()])
            begin = match.end()
    found.append(text[begin:])
    return [part for sentence in found for part in _stretches(sentence)]


def first_words(text: str, count: int) -> str:
    """The first ``count`` words of ``text``, with the white space between them as it stands."""
    return "".join(_words(text)[:count]).rstrip()


def first_tokens(text: str, tokenizer: PreTrainedTokenizerBase, count: int) -> str:
    """The beginning of ``text`` that its first ``count`` tokens are, special tokens aside; all of a shorter text."""
    if not tokenizer.is_fast:
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return text if len(ids) <= count else str(tokenizer.decode(ids[:count]))
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    places = found["offset_mapping"]
    return text if len(places) <= count else text[: places[count - 1][1]]


def passages(text: str, words: int) -> list[tuple[str, str]]:
    """Consecutive passages of ``text``: a sentence, with the white space behind it, and what follows it, whole
    sentences of at most ``words`` words together (or the beginning of one that is longer). A sentence that nothing
    follows asks for nothing and is left out."""
    parts = [part for part in sentences(text) if part.strip()]
    found: list[tuple[str, str]] = []
    while len(parts) > 1:
        taken = _fitting(parts[1:], words)
        found.append((parts[0].lstrip(), first_words("".join(parts[1 : 1 + taken]), words)))
        parts = parts[1 + taken :]
    return found


def _fitting(parts: Sequence[str], words: int) -> int:
    """How many of ``parts`` have at most ``words`` words together, at least one."""
    total = 0
    for count, part in enumerate(parts):
        total += len(part.split())
        if total > words:
            return max(count, 1)
    return len(parts)


def _stretches(sentence: str) -> list[str]:
    words = _words(sentence)
    return ["".join(words[at : at + _LONGEST]) for at in range(0, len(words), _LONGEST)]


def _words(text: str) -> list[str]:
    """The words, each with the white space behind it; the first with what stands before it."""
    return re.findall(r"\s*\S+\s*", text)
