"""Protects forget quality: a two-sided KS test on unfolded truth ratios, and the statistic beside the p-value."""

from __future__ import annotations

import numpy as np
import pytest

from expunge.errors import ControlError
from expunge.evaluation.metric import ModelValues, UndefinedScoreError
from expunge.evaluation.metrics import forget_quality, forget_quality_ks


def values(*ratios: float) -> ModelValues:
    array = np.array(ratios)
    return ModelValues({"forget_truth_ratio": array}, {"forget_truth_ratio": np.minimum(array, 1 / array)})


def test_by_hand() -> None:
    own, retrained = values(1, 2, 3, 4), values(3.5, 5, 6, 7)
    # at 3 the first has 3/4 of its values, the second none: D = 3/4. p: of the C(8,4) = 70 ways to split the eight
    # values, those with D >= 3/4: 8 each side = 16 (paths of a 4 x 4 grid that leave |i - j| < 3): 16/70
    assert forget_quality_ks.METRIC.compute(own, retrained).value == pytest.approx(0.75)
    score = forget_quality.METRIC.compute(own, retrained)
    assert score.value == pytest.approx(16 / 70)
    assert (score.stderr, score.n) == (None, 4)


def test_unfolded_ratios_see_the_other_side() -> None:
    # R and 1/R fold onto each other, but 10 and 0.1 are not the same behaviour
    own, retrained = values(*[10.0] * 20), values(*[0.1] * 20)
    assert forget_quality_ks.METRIC.compute(own, retrained).value == 1.0
    assert forget_quality.METRIC.compute(own, retrained).value < 1e-6


def test_same_model_is_not_told_apart_and_undefined_rows_take_no_part() -> None:
    own = values(1, 2, np.nan, 3)
    score = forget_quality.METRIC.compute(own, own)
    assert (score.value, score.n) == (1.0, 3)
    assert forget_quality_ks.METRIC.compute(own, own).value == 0.0


def test_no_retrained_model_says_what_to_pass() -> None:
    with pytest.raises(ControlError, match="forget_quality needs a retrained model: pass --retrained DIR"):
        forget_quality.METRIC.compute(values(1, 2), None)


def test_no_wrong_answers_is_undefined() -> None:
    with pytest.raises(UndefinedScoreError, match="no wrong answers"):
        forget_quality.METRIC.compute(values(np.nan), values(1.0))
