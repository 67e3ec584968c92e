"""Protects the scores of skills: every kind of item by its own rule, and what is left beside the target."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from expunge.evaluation.code_answers import CodeRow
from expunge.evaluation.metric import ModelValues, UndefinedScoreError
from expunge.evaluation.metrics import forgotten_left, least_kept
from expunge.evaluation.metrics.solved import METRIC
from expunge.evaluation.reading import ReadingRow
from expunge.evaluation.types import RowOutputs, SetOutputs
from expunge.requests.rows import Row

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="code is run on Linux alone")

PROBLEM = Row("q", "Steps: 2 + 3 = 5, 5 - 1 = 4")
QUESTION = ReadingRow("q", "Antwort: die Geige", language="de", accepted=("Geige",))
FUNCTION = CodeRow("q", "Code: def f(a): return abs(a)", tests=("assert f(-2) == 2",))


@pytest.mark.parametrize(
    ("row", "greedy", "value"),
    [
        (PROBLEM, "Steps: 2 + 3 = 5, 5 - 1 = 4", 1),
        (PROBLEM, "2 + 3 = 6, 6 - 2 = 4", 1),  # the number it ends in counts, not how it came about
        (PROBLEM, "Steps: 2 + 3 = 5, 5 - 1 = 3", 0),
        (PROBLEM, "I cannot say.", 0),
        (QUESTION, "Antwort: Geige", 1),
        (QUESTION, "Answer: die Geige.", 1),  # whatever word it begins with
        (QUESTION, "Geige", 1),
        (QUESTION, "Antwort: Geige Cello", 0),
        (QUESTION, "", 0),
    ],
)
def test_numbers_and_spans(row: Row, greedy: str, value: float) -> None:
    assert METRIC.per_row(RowOutputs(row, greedy=greedy)) == value


def test_rows_of_every_kind_in_one_set() -> None:
    kinds = [(QUESTION, "Geige"), (PROBLEM, "5"), (PROBLEM, "4"), (Row("q", "no number"), "4"), (QUESTION, None)]
    values = METRIC.values(SetOutputs("mixed", tuple(RowOutputs(row, greedy=greedy) for row, greedy in kinds)))
    assert values[:3].tolist() == [1, 0, 1]
    assert np.isnan(values[3:]).all()


@on_linux
def test_code_is_run() -> None:
    answers = ("Code: def f(a): return abs(a)", "def f(a): return abs(a)", "Code: def f(a): return a", "Steps: abs")
    rows = tuple(RowOutputs(FUNCTION, greedy=one) for one in answers)
    assert METRIC.values(SetOutputs("code", rows)).tolist() == [1, 1, 0, 0]


def _values(**scores: list[float]) -> ModelValues:
    found = {key: np.array(one, dtype=np.float64) for key, one in scores.items()}
    return ModelValues(found, found)


def test_what_is_left_is_a_share_of_the_targets_score() -> None:
    target = _values(german_solved=[1, 1, 1, 0], code_solved=[1, 1], arithmetic_solved=[1, 1, 1, 1])
    own = _values(german_solved=[1, 0, 0, 0], code_solved=[1, 0], arithmetic_solved=[1, 1, 1, 0])
    # german: 1/4 over 3/4; code: 1/2 over 1; arithmetic: 3/4 over 1
    left = forgotten_left.of("german_solved").compute(own, target)
    assert left.value == pytest.approx(1 / 3)
    assert (left.n, left.version) == (4, 1)
    kept = least_kept.of("code_solved", "arithmetic_solved").compute(own, target)
    assert (kept.value, kept.n) == (0.5, 6)
    assert 0 < kept.stderr < 0.5  # type: ignore[operator]
    whole = forgotten_left.of("german_solved").compute(target, target)
    assert (whole.value, whole.stderr) == (1.0, 0.0)  # the rows are resampled together: no share of itself but 1


def test_rows_without_a_value_take_no_part() -> None:
    own, target = _values(x_solved=[np.nan, 0, 1, 1]), _values(x_solved=[1, np.nan, 1, 1])
    assert forgotten_left.of("x_solved").compute(own, target).value == 1.0


def test_nothing_to_compare_with() -> None:
    own = _values(x_solved=[1, 0])
    with pytest.raises(UndefinedScoreError, match="forgotten_left has no value: the target was not scored"):
        forgotten_left.of("x_solved").compute(own, None)
    with pytest.raises(UndefinedScoreError, match="least_kept has no value: x_solved of the target is 0"):
        least_kept.of("x_solved").compute(own, _values(x_solved=[0, 0]))
