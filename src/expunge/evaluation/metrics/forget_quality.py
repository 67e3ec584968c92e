"""Forget quality: can the model be told apart from one that never saw the forget set?"""

from __future__ import annotations

import numpy as np

from expunge.errors import ControlError
from expunge.evaluation.metric import ModelValues, SuiteMetric, UndefinedScoreError
from expunge.evaluation.types import Score

RATIOS = "forget_truth_ratio"


def ks_test(sample: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Two-sample, two-sided Kolmogorov-Smirnov test of [n] against [m] values: the statistic D (largest gap
    between their distribution functions) and its p-value."""
    from scipy.stats import ks_2samp

    result = ks_2samp(sample, other, alternative="two-sided")
    return float(result.statistic), float(result.pvalue)


def compare(own: ModelValues, retrained: ModelValues | None) -> tuple[float, float, int]:
    """D, p and the number of own rows, for the *unfolded* truth ratios on the forget set (folding would hide
    a model that has gone past the retrained one)."""
    if retrained is None:
        raise ControlError("forget_quality needs a retrained model: pass --retrained DIR (expunge train makes one).")
    left, right = (values.raw[RATIOS][~np.isnan(values.raw[RATIOS])] for values in (own, retrained))
    if len(left) == 0 or len(right) == 0:
        raise UndefinedScoreError("forget_quality has no value: the forget rows carry no wrong answers.")
    statistic, p_value = ks_test(left, right)
    return statistic, p_value, len(left)


def _compute(own: ModelValues, retrained: ModelValues | None) -> Score:
    _, p_value, count = compare(own, retrained)
    return Score(p_value, None, count, METRIC.version)


METRIC = SuiteMetric(
    name="forget_quality",
    version=1,
    summary="p-value of a KS test between its truth ratios and the retrained model's on the forget set.",
    requires=(RATIOS,),
    compute=_compute,
    controls=frozenset({"retrained"}),
    paper="2401.06121",
)
