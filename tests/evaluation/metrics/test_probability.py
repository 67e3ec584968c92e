"""Protects the length-normalised probability: every answer token counts once, the end token too."""

from __future__ import annotations

import math

import pytest

from expunge.evaluation.metrics.probability import METRIC, probability
from made_outputs import answer, outputs_row, outputs_set


def test_geometric_mean_of_token_probabilities() -> None:
    # (0.5 * 0.125)^(1/2) = 0.0625^(1/2) = 0.25
    assert probability(answer(0.5, 0.125)) == pytest.approx(0.25)


def test_end_token_counts() -> None:
    # (0.5 * 0.5 * 0.001)^(1/3) = (0.00025)^(1/3) = 0.062996; without the end token it would be 0.5
    assert probability(answer(0.5, 0.5, 0.001)) == pytest.approx(0.00025 ** (1 / 3))


def test_set_score_is_the_mean_with_its_standard_error() -> None:
    score = METRIC.score(outputs_set("forget", [outputs_row(probability=p) for p in (0.2, 0.4, 0.9)]))
    # mean 0.5; deviations -0.3 -0.1 0.4: squares .09 .01 .16 = .26; variance .26/2 = .13; sqrt(.13/3) = 0.208167
    assert score.value == pytest.approx(0.5)
    assert score.stderr == pytest.approx(math.sqrt(0.13 / 3))
    assert score.n == 3


def test_one_row_has_no_standard_error() -> None:
    assert METRIC.score(outputs_set("forget", [outputs_row()])).stderr is None
