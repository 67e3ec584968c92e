"""Protects the multiple-choice probability: normalised over right and wrong options, also far below float range."""

from __future__ import annotations

import math

import pytest

from expunge.evaluation.metric import UndefinedScoreError
from expunge.evaluation.metrics.choice_probability import METRIC, choice_probability
from made_outputs import answer, outputs_row, outputs_set


def test_share_of_the_right_option() -> None:
    # length-normalised: right 0.4, wrong 0.3 (one token) and sqrt(0.2 * 0.05) = 0.1: 0.4 / 0.8 = 0.5
    assert choice_probability(answer(0.4), (answer(0.3), answer(0.2, 0.05))) == pytest.approx(0.5)


def test_options_of_vanishing_probability_still_compare() -> None:
    # both e^-2000, which is 0 in float64; equal options share: 1/2
    right, wrong = answer(1.0), answer(1.0)
    right.logps[:] = wrong.logps[:] = -2000.0
    assert choice_probability(right, (wrong,)) == pytest.approx(0.5)
    wrong.logps[:] = 0.0
    assert choice_probability(right, (wrong,)) == pytest.approx(0.0)


def test_stands_as_probability_and_needs_wrong_answers() -> None:
    assert METRIC.label == "probability"
    assert math.isnan(METRIC.per_row(outputs_row()))
    with pytest.raises(UndefinedScoreError, match="real_authors_probability has no value: its rows carry no wrong"):
        METRIC.score(outputs_set("real_authors", [outputs_row()]))
