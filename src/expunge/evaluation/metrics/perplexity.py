"""Perplexity of the expected answers under the model itself."""

from __future__ import annotations

import numpy as np

from expunge.evaluation.metric import UNDEFINED, SetMetric
from expunge.evaluation.metrics.answer_perplexity import perplexity
from expunge.evaluation.types import RowOutputs


def _parts(row: RowOutputs) -> tuple[float, ...]:
    if row.answer is None or len(row.answer.logps) == 0:
        return (UNDEFINED, UNDEFINED)
    return (-float(np.sum(row.answer.logps, dtype=np.float64)), float(len(row.answer.logps)))


def _per_row(row: RowOutputs) -> float:
    return float(perplexity(np.array(_parts(row))))


METRIC = SetMetric(
    name="perplexity",
    version=1,
    summary="Perplexity of the expected answers: exp of the mean negative log-probability of all their tokens.",
    needs=frozenset({"answer"}),
    per_row=_per_row,
    parts=_parts,
    combine=perplexity,
    undefined="no row has an expected answer",
)
