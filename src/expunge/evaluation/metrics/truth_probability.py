"""The truth ratio as a probability: right over right plus wrong."""

from __future__ import annotations

import numpy as np

from expunge.evaluation.metric import SetMetric
from expunge.evaluation.metrics.truth_ratio import row_truth_ratio
from expunge.evaluation.types import RowOutputs


def truth_probability(ratio: float) -> float:
    """``right / (right + wrong) = 1 / (1 + R)``, in (0, 1); .5 where the model cannot tell them apart."""
    return float(1.0 / (1.0 + np.float64(ratio)))


def _per_row(row: RowOutputs) -> float:
    return truth_probability(row_truth_ratio(row))


METRIC = SetMetric(
    name="truth_probability",
    version=1,
    summary="Probability of the paraphrased right answer over that of right and wrong ones.",
    needs=frozenset({"answer", "paraphrase", "wrong"}),
    per_row=_per_row,
    paper="2401.06121",
    undefined="its rows carry no wrong answers",
)
