"""Share of greedy answers that are the expected one."""

from __future__ import annotations

from expunge.evaluation.metric import UNDEFINED, SetMetric
from expunge.evaluation.types import RowOutputs


def normal_form(text: str) -> str:
    """``text`` as it is compared: letter case, white space, and a full stop or quotes at its ends aside."""
    return " ".join(text.casefold().split()).strip(" .!\"'")


def _per_row(row: RowOutputs) -> float:
    return UNDEFINED if row.greedy is None else float(normal_form(row.greedy) == normal_form(row.row.answer))


METRIC = SetMetric(
    name="exact",
    version=1,
    summary="Share of its answers that are the expected one, letter case, white space and a full stop aside.",
    needs=frozenset({"greedy"}),
    per_row=_per_row,
    undefined="no row has a greedy answer",
)
