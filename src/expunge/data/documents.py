"""Long documents in pieces that fit the model, so that none of their text is cut away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from expunge.requests.rows import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARGIN = 8  # special tokens, and the few more that a piece can take when tokenized on its own


def split_documents(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length: int) -> tuple[Row, ...]:
    """Replace every document longer than ``max_length`` tokens by consecutive pieces of its text.

    Joined again, the pieces are the document; other rows pass through. A piece of ``a.txt:1`` is called ``a.txt:1#2``.
    """
    if not any(row.kind == "document" for row in rows) or not tokenizer.is_fast:
        return tuple(rows)
    room = max(2, max_length - _MARGIN)
    result: list[Row] = []
    for row in rows:
        if row.kind != "document":
            result.append(row)
            continue
        encoded = tokenizer(row.answer, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        offsets = encoded["offset_mapping"]
        if len(offsets) <= room:
            result.append(row)
            continue
        cuts = [0, *(offsets[i][0] for i in range(room, len(offsets), room)), len(row.answer)]
        pieces = [row.answer[a:b] for a, b in zip(cuts, cuts[1:], strict=False) if row.answer[a:b].strip()]
        result.extend(
            replace(row, answer=piece, source=f"{row.source}#{number}") for number, piece in enumerate(pieces, 1)
        )
    return tuple(result)
