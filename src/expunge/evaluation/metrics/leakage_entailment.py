"""Whether greedy answers entail the expected ones."""

from __future__ import annotations

from expunge.evaluation.answer_verdicts import entailed
from expunge.evaluation.metric import UNDEFINED, SetMetric
from expunge.evaluation.types import RowOutputs


def _per_row(row: RowOutputs) -> float:
    said = entailed(row)
    return UNDEFINED if said is None else said


METRIC = SetMetric(
    name="leakage_entailment",
    version=1,
    summary="How much of the expected answers its own entail, by words or a model: 0 nothing, 0.5 part, 1 all.",
    needs=frozenset({"greedy", "answer_judged"}),
    per_row=_per_row,
    paper="",
    undefined="no row has a greedy answer and an expected one that tells something",
)
