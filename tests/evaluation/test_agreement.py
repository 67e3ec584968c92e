"""Protects agreement between judges: kappa by hand, its limits, intervals that draw questions whole."""

from __future__ import annotations

import json

import numpy as np
import pytest

from expunge.errors import ConfigError
from expunge.evaluation.agreement import agreement, agreements
from expunge.evaluation.types import AnswerVerdict, ModelOutputs, RowOutputs, SetOutputs
from expunge.requests.rows import Row

NAN = float("nan")
THREE = (0.0, 0.5, 1.0)


def test_kappa_by_hand() -> None:
    # table, first judge in rows: 20 5 / 10 15. Raw (20 + 15) / 50 = .7; shares .5 .5 and .6 .4, so by chance they agree
    # on .5 * .6 + .5 * .4 = .5; kappa = (.7 - .5) / (1 - .5) = .4
    first = [0.0] * 25 + [1.0] * 25
    second = [0.0] * 20 + [1.0] * 5 + [0.0] * 10 + [1.0] * 15
    found = agreement(first, second, (0.0, 1.0))
    assert found is not None
    assert (found.n, found.table) == (50, ((20, 5), (10, 15)))
    assert found.raw.value == pytest.approx(0.7)
    assert found.kappa.value == pytest.approx(0.4)
    assert found.quadratic_kappa.value == pytest.approx(0.4)  # with two levels there is one kind of disagreement
    assert found.kappa.low is not None
    assert found.kappa.high is not None
    # the standard error of this kappa is .13 (delta method), so the interval is about .4 +- .25
    assert found.kappa.low == pytest.approx(0.15, abs=0.04)
    assert found.kappa.high == pytest.approx(0.65, abs=0.04)


def test_quadratic_kappa_by_hand() -> None:
    # four answers: (0, 0), (.5, 1), (1, 1), (1, 0). Shares of the first 1/4 1/4 2/4, of the second 2/4 0 2/4.
    # Unweighted: observed disagreement 2/4; by chance agree 1/4 * 2/4 + 0 + 2/4 * 2/4 = 3/8, disagree 5/8:
    # kappa 1 - (1/2) / (5/8) = 1/5.
    # Squares of steps: observed (1 + 4) / 4 = 5/4. By chance, second at 0 (2/4): 1/4 * 0 + 1/4 * 1 + 2/4 * 4 = 9/4;
    # second at 1 (2/4): 1/4 * 4 + 1/4 * 1 + 0 = 5/4; together 7/4. Kappa 1 - (5/4) / (7/4) = 2/7.
    found = agreement([0, 0.5, 1, 1], [0, 1, 1, 0], THREE)
    assert found is not None
    assert found.table == ((1, 0, 0), (0, 0, 1), (1, 0, 1))
    assert found.kappa.value == pytest.approx(1 / 5)
    assert found.quadratic_kappa.value == pytest.approx(2 / 7)


def test_judges_that_always_agree_and_that_never_do() -> None:
    same = agreement([0, 1, 0, 1], [0, 1, 0, 1], (0.0, 1.0))
    opposite = agreement([0, 1, 0, 1], [1, 0, 1, 0], (0.0, 1.0))
    assert same is not None
    assert opposite is not None
    assert (same.raw.value, same.kappa.value, same.kappa.low) == (1, 1, 1)
    assert (opposite.raw.value, opposite.kappa.value) == (0, -1)


def test_where_both_always_say_one_thing_kappa_is_not_defined() -> None:
    found = agreement([1, 1, 1], [1, 1, 1], (0.0, 1.0))
    assert found is not None
    assert (found.raw.value, found.raw.low) == (1, 1)
    assert found.kappa.to_json() == {"value": None, "low": None, "high": None}


def test_values_between_levels_count_as_the_nearer() -> None:
    found = agreement([0.2, 0.25, 0.3, 0.9], [0, 0, 0.5, 1], THREE)  # .25 is as near to 0 as to .5: the lower
    assert found is not None
    assert found.raw.value == 1


def test_answers_without_a_verdict_are_left_out() -> None:
    found = agreement([NAN, 1, 0], [1, NAN, 0], THREE)
    assert found is not None
    assert found.n == 1
    assert agreement([NAN], [1], THREE) is None
    with pytest.raises(ConfigError, match="agreement of 1 and 2 values"):
        agreement([1], [1, 0], THREE)


def test_answers_to_one_question_are_drawn_together() -> None:
    """Each question answered by nine models alike: as many independent examples as there are questions."""
    first = list(np.tile([0.0, 1.0], 20))
    second = [value if i % 4 else 1 - value for i, value in enumerate(first)]
    once = agreement(first, second, (0.0, 1.0))
    nine = agreement(first * 9, second * 9, (0.0, 1.0), groups=list(range(40)) * 9)
    apart = agreement(first * 9, second * 9, (0.0, 1.0))
    assert once is not None
    assert nine is not None
    assert apart is not None
    assert once.kappa.to_json() == pytest.approx(nine.kappa.to_json())
    assert once.raw.low is not None
    assert apart.raw.low is not None
    assert apart.raw.low > once.raw.low + 0.05


def test_every_pair_of_judges_over_the_answers_of_all_models() -> None:
    def row(*verdicts: tuple[str, float, float, float]) -> RowOutputs:
        said = {label: AnswerVerdict(*rest) for label, *rest in verdicts}
        return RowOutputs(Row("q", "a"), greedy="b", verdicts=said)

    rows = (
        row(("rules", 0, 1, 1), ("large", 0, 0.9, 1), ("small", 1, 1, 0)),
        row(("rules", 1, 1, 0), ("large", 1, 0.9, 0), ("small", 1, 1, 0)),
        RowOutputs(Row("q", "a")),  # nothing was asked
    )
    one = ModelOutputs({"forget": SetOutputs("forget", rows)})
    found = agreements({"target": one, "erased": one})
    assert [(entry["first"], entry["second"], entry["on"]) for entry in found] == [
        (first, second, on)
        for first, second in (("rules", "large"), ("rules", "small"), ("large", "small"))
        for on in ("privacy", "quality", "rejection")
    ]
    assert all(entry["n"] == 4 for entry in found)
    assert [entry["raw"]["value"] for entry in found] == [1, 1, 1, 0.5, 1, 0.5, 0.5, 1, 0.5]
    json.dumps(found, allow_nan=False)
