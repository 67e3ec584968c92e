"""Whether greedy answers are fluent and on topic, by the suite's answer judge."""

from __future__ import annotations

from expunge.evaluation.answer_verdicts import verdict_on
from expunge.evaluation.metric import UNDEFINED, SetMetric
from expunge.evaluation.types import RowOutputs


def _per_row(row: RowOutputs) -> float:
    said = verdict_on(row)
    return UNDEFINED if said is None else said.quality


METRIC = SetMetric(
    name="answer_quality",
    version=2,
    summary="Whether its answers are fluent and on topic, by the answer judge: 0 to 1.",
    needs=frozenset({"greedy", "answer_judged"}),
    per_row=_per_row,
    paper="2407.16997",
    undefined="no row has a greedy answer",
)
