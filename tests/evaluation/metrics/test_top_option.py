"""Protects multiple choice: the likeliest option a token, the end token aside, ties shared."""

from __future__ import annotations

import math

import pytest

from expunge.evaluation.metrics.top_option import METRIC, top_share
from expunge.evaluation.types import RowOutputs, SetOutputs
from expunge.requests.rows import Row
from made_outputs import answer


def test_top_share() -> None:
    assert top_share(-1.0, [-2.0, -3.0]) == 1.0
    assert top_share(-2.0, [-1.0, -3.0]) == 0.0
    assert top_share(-1.0, [-1.0, -3.0, -1.0]) == pytest.approx(1 / 3)
    even = -math.log(50257)
    assert top_share(even, [even + 1e-12, even, even - 1e-12]) == 0.25  # a model that says nothing: chance


def test_length_and_end_token_do_not_decide() -> None:
    row = Row("q", "right", wrong_answers=("wrong", "other"))
    # last values are end tokens. A token: right sqrt(.5 * .5) = .5, wrong .4, other sqrt(.9 * .2) = .424;
    # with the end tokens wrong would win, and by the whole product (.25 against .4) too
    outputs = RowOutputs(row, answer=answer(0.5, 0.5, 0.001), wrong=(answer(0.4, 0.9), answer(0.9, 0.2, 0.9)))
    assert METRIC.per_row(outputs) == 1.0
    cut = RowOutputs(row, answer=answer(0.3, has_end=False), wrong=(answer(0.4, 0.9),))
    assert METRIC.per_row(cut) == 0.0


def test_score() -> None:
    row = Row("q", "A", wrong_answers=("B",))
    right = RowOutputs(row, answer=answer(0.6), wrong=(answer(0.3),))
    tied = RowOutputs(row, answer=answer(0.3), wrong=(answer(0.3),))
    score = METRIC.score(SetOutputs("letter", (right, tied, RowOutputs(Row("q", "a"), answer=answer(0.5)))))
    # mean of 1 and 1/2 over the rows with options; sd .35355 over sqrt(2)
    assert (score.value, score.n) == (0.75, 2)
    assert score.stderr == pytest.approx(0.25)
