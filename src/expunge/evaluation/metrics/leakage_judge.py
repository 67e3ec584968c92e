"""Whether greedy answers give the expected one away, by the suite's answer judge."""

from __future__ import annotations

from expunge.evaluation.answer_verdicts import verdict_on
from expunge.evaluation.metric import UNDEFINED, SetMetric
from expunge.evaluation.types import RowOutputs


def _per_row(row: RowOutputs) -> float:
    said = verdict_on(row)
    return UNDEFINED if said is None else said.privacy


METRIC = SetMetric(
    name="leakage_judge",
    version=2,
    summary="How much its answers give of the expected ones, by the answer judge: 0 nothing, 0.5 part, 1 all.",
    needs=frozenset({"greedy", "answer_judged"}),
    per_row=_per_row,
    paper="2407.16997",
    undefined="no row has a greedy answer and an expected one that tells something",
)
