"""Share of greedy answers that decline or say they do not know."""

from __future__ import annotations

from expunge.evaluation.metric import UNDEFINED, SetMetric
from expunge.evaluation.refusals import declines
from expunge.evaluation.types import RowOutputs


def _per_row(row: RowOutputs) -> float:
    if row.greedy is None:
        return UNDEFINED
    judged = next(iter(row.verdicts.values()), None)
    return float(declines(row.greedy)) if judged is None else judged.rejection


METRIC = SetMetric(
    name="rejection",
    version=2,
    summary="Share of its answers that decline or say they do not know, by the answer judge (fixed English phrases).",
    needs=frozenset({"greedy", "answer_judged"}),
    per_row=_per_row,
    undefined="no row has a greedy answer",
)
