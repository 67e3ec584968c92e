"""Which rows the audited models can answer at all: a prompt that fills the context leaves no room."""

from __future__ import annotations

from collections.abc import Sequence

from expunge.audits.interface import Audited
from expunge.data.encode import rows_with_room
from expunge.errors import InputError
from expunge.models.limits import max_tokens
from expunge.requests.rows import Row

_LISTED = 5


def shortest_context(audited: Audited) -> int:
    """How many tokens every one of the models takes, ``max_length`` at most."""
    models = (audited.target, audited.erased, audited.retrained)
    return min(max_tokens(model, audited.max_length) for model in models if model is not None)


def fitting(audited: Audited, rows: Sequence[Row]) -> tuple[list[Row], int]:
    """The rows whose prompt leaves room for a token of an answer, and how many do not.

    Raises:
        InputError: none of them does.
    """
    length = shortest_context(audited)
    places = rows_with_room(audited.tokenizer, audited.texts, rows, max_length=length)
    if rows and not places:
        named = [row.source or repr(row.prompt[:40]) for row in rows]
        more = f" and {len(named) - _LISTED} more" if len(named) > _LISTED else ""
        raise InputError(
            f"no row is looked at: their prompts leave no room for an answer in the {length} tokens of the context "
            f"({', '.join(named[:_LISTED])}{more}). Raise training.max_length, or shorten them."
        )
    return [rows[place] for place in places], len(rows) - len(places)
