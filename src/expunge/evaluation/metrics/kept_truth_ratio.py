"""Truth ratio folded for sets that must stay: how far the right answer is ahead of the wrong ones."""

from __future__ import annotations

import numpy as np

from expunge.evaluation.metric import SetMetric
from expunge.evaluation.metrics.truth_ratio import row_truth_ratio


def fold_kept(ratios: np.ndarray) -> np.ndarray:
    """``max(0, 1 - R)`` [n]: 1 where the right answer is far ahead, 0 where a wrong one is as likely or
    likelier."""
    return np.maximum(0.0, 1.0 - ratios)


METRIC = SetMetric(
    name="kept_truth_ratio",
    version=1,
    summary="How far the right answer is ahead of wrong ones: mean of max(0, 1 - R).",
    needs=frozenset({"answer", "paraphrase", "wrong"}),
    per_row=row_truth_ratio,
    fold=fold_kept,
    key="truth_ratio",
    paper="2401.06121",
    undefined="its rows carry no wrong answers",
)
