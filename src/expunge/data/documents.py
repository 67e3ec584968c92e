"""Long documents in pieces that fit the model, so that none of their text is cut away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from expunge.requests.rows import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARGIN = 8  # special tokens, and the few more that a piece usually takes when tokenized on its own


def split_documents(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length: int) -> tuple[Row, ...]:
    """Replace every document longer than ``max_length`` tokens by consecutive pieces of its text.

    Joined again, the pieces are the document (but for white space that would fill a piece of its own); other rows pass
    through. A piece of ``a.txt:1`` is called ``a.txt:1#2``.
    """
    result: list[Row] = []
    for row in rows:
        if row.kind != "document" or _fits(row.answer, tokenizer, max_length):
            result.append(row)
            continue
        pieces = [piece for piece in _pieces(row.answer, tokenizer, max_length) if piece.strip()]
        result.extend(
            replace(row, answer=piece, source=f"{row.source}#{number}") for number, piece in enumerate(pieces, 1)
        )
    return tuple(result)


def _fits(text: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> bool:
    """Whether ``text`` with the tokenizer's special tokens and an end token is at most ``max_length`` tokens."""
    return len(tokenizer(text, verbose=False)["input_ids"]) < max_length


def _pieces(text: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Iterator[str]:
    """Cut where tokens begin, then halve what still does not fit (text can take more tokens once cut)."""
    cuts = [0, *_token_starts(text, tokenizer)[max(max_length - _MARGIN, 1) :: max(max_length - _MARGIN, 1)], len(text)]
    waiting = [text[a:b] for a, b in pairwise(cuts)][::-1]
    while waiting:
        piece = waiting.pop()
        if len(piece) < 2 or _fits(piece, tokenizer, max_length):
            yield piece
        else:
            middle = len(piece) // 2
            near = piece.rfind(" ", middle // 2, middle + 1)  # between words where that is not far
            middle = middle if near <= 0 else near
            waiting += [piece[middle:], piece[:middle]]


def _token_starts(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    if not tokenizer.is_fast:
        return []  # tokenizers written in Python know no offsets
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return [start for start, _ in encoded["offset_mapping"]]
