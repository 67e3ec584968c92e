"""Protects model utility: the harmonic mean of nine scores, 0 where one is 0, a bootstrap standard error."""

from __future__ import annotations

import numpy as np
import pytest

from expunge.evaluation.metric import ModelValues, UndefinedScoreError
from expunge.evaluation.metrics.model_utility import LABELS, METRIC, SETS, harmonic_mean


def values(**columns: np.ndarray) -> ModelValues:
    """Every score constant 0.5 over ten rows unless given."""
    folded = {f"{name}_{label}": np.full(10, 0.5) for name in SETS for label in LABELS} | columns
    return ModelValues(folded, folded)


def test_harmonic_mean_by_hand() -> None:
    assert harmonic_mean(np.array([1.0, 0.5, 0.25])) == pytest.approx(3 / 7)  # 3 / (1 + 2 + 4)
    assert harmonic_mean(np.array([1.0, 0.0])) == 0.0


def test_nine_scores() -> None:
    # eight of 0.5 and one of 0.25: 9 / (8 * 2 + 4) = 0.45
    score = METRIC.compute(values(retain_rouge=np.full(10, 0.25)), None)
    assert score.value == pytest.approx(0.45)
    assert score.stderr == pytest.approx(0.0)  # constant columns do not vary under resampling
    assert score.n == 30
    assert len(METRIC.requires) == 9


def test_standard_error_follows_the_delta_method() -> None:
    # one column varies around 0.5; H = 9 / sum(1/x), so dH/dx = H^2 / (9 x^2) = .25 / (9 * .25) = 1/9
    column = np.random.default_rng(0).uniform(0.4, 0.6, 400)
    column += 0.5 - column.mean()
    wide = {f"retain_{label}": np.full(400, 0.5) for label in LABELS}
    score = METRIC.compute(values(**{**wide, "retain_probability": column}), None)
    assert score.value == pytest.approx(0.5)
    assert score.stderr == pytest.approx(column.std(ddof=1) / 20 / 9, rel=0.06)


def test_a_score_without_any_row_is_undefined() -> None:
    with pytest.raises(UndefinedScoreError, match="no row of world_facts defines rouge"):
        METRIC.compute(values(world_facts_rouge=np.full(10, np.nan)), None)
