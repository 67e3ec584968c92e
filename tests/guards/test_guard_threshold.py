"""Protects thresholds: the stated false-positive rate is kept to, by kind where asked, and rates have exact limits."""

from __future__ import annotations

import math

import numpy as np
import pytest

from expunge.errors import ConfigError, InputError
from expunge.guards.threshold import Threshold, calibrate, rate, rates


def above(value: float) -> float:
    return float(np.nextafter(np.float32(value), np.float32(np.inf)))


def test_threshold_by_hand() -> None:
    # 9 scores, level .25: floor(.25 * 10) = 2, so the threshold is just above the second largest, and one is flagged
    scores = np.array([5, 1, 9, 3, 7, 11, 13, 15, 17])
    found = calibrate(scores, 0.25)
    assert found.value == above(15) > 15
    assert found.flags(scores).tolist() == [False] * 8 + [True]
    (bound,) = found.bounds
    assert (bound.kind, bound.rows, bound.rank, bound.bound, bound.own) == ("", 9, 2, 0.2, found.value)
    assert bound.observed == pytest.approx(1 / 9)
    # Beta(2, 8): P(X <= x) = 1 - (1-x)^9 - 9 x (1-x)^8, as two of nine uniform numbers are at most x
    x = bound.upper
    assert 1 - (1 - x) ** 9 - 9 * x * (1 - x) ** 8 == pytest.approx(0.95)
    assert found.decides == ""
    assert Threshold.from_dict(found.as_dict()) == found


def test_equal_scores_are_flagged_together_or_not_at_all() -> None:
    # floor(.5 * 6) = 3: the third largest of 3 2 2 2 1 is a 2, so that none of the 2s is flagged
    found = calibrate(np.array([2, 1, 2, 3, 2]), 0.5)
    assert found.flags(np.array([3.0, 2.0])).tolist() == [True, False]
    # in float32, as thresholds are: what rounds to 2 is a 2
    assert not found.flags(np.array([2 + 1e-9]))[0]


def test_every_kind_may_have_to_meet_the_level() -> None:
    scores = np.array([1.0, 2, 3, 10, 20, 30])
    kinds = ["a"] * 3 + ["b"] * 3
    together = calibrate(scores, 0.25, kinds=kinds)
    each = calibrate(scores, 0.25, kinds=kinds, every_kind=True)
    # together: floor(.25 * 7) = 1, just above 30 as well as for b alone; 3 for a alone
    assert together.value == each.value == above(30)
    assert [(bound.kind, bound.own) for bound in each.bounds] == [("", above(30)), ("a", above(3)), ("b", above(30))]
    # with more rows of the harmless kind all together are content with less
    scores, kinds = np.array([1.0] * 8 + [10, 20, 30]), ["a"] * 8 + ["b"] * 3
    # floor(.25 * 12) = 3: above 10; b alone needs above 30
    assert calibrate(scores, 0.25, kinds=kinds).value == above(10)
    assert calibrate(scores, 0.25, kinds=kinds, every_kind=True).decides == "b"


def test_the_stated_rate_holds_on_new_prompts() -> None:
    draw = np.random.default_rng(0)
    found = [
        calibrate(draw.normal(size=199), 0.05).flags(draw.normal(size=200)).mean() for _ in range(300)
    ]  # the expected rate is floor(.05 * 200) / 200 = .05; its standard error here is about .001
    assert np.mean(found) == pytest.approx(0.05, abs=0.005)


def test_rates_by_hand() -> None:
    # none of 10: (1 - high)^10 = .025; all of 10: low^10 = .025
    none, every = rate(np.zeros(10, bool)), rate(np.ones(10, bool))
    assert (none.low, none.high) == (0, pytest.approx(1 - 0.025**0.1))
    assert (every.low, every.high) == (pytest.approx(0.025**0.1), 1)
    # 1 of 2: P(at least 1 of 2) = 1 - (1-p)^2 = .025 at the lower limit
    half = rate(np.array([True, False]))
    assert half.low == pytest.approx(1 - math.sqrt(0.975))
    assert half.high == pytest.approx(math.sqrt(0.975))
    assert half.as_dict()["rate"] == 0.5
    found = rates(np.array([True, False, False]), ["b", "a", "b"])
    assert {kind: (one.flagged, one.rows) for kind, one in found.items()} == {"": (1, 3), "a": (0, 1), "b": (1, 2)}


def test_too_few_prompts_say_how_many() -> None:
    with pytest.raises(InputError, match=r"no benign prompts .* level of 0.01 takes 99\. Pass retain rows"):
        calibrate(np.zeros(0), 0.01)
    with pytest.raises(
        InputError, match=r"takes at least 99 benign .*there are 40\. Pass more, or a level .* 0\.0244\."
    ):
        calibrate(np.zeros(40), 0.01)  # 1 / 41 = .02439
    kinds = ["a"] * 99 + ["b"] * 5 + ["c"] * 9
    with pytest.raises(
        InputError, match=r"of each kind, and 'b' has 5, 'c' has 9\. .*0\.1667, or let all kinds meet it"
    ):
        calibrate(np.zeros(113), 0.01, kinds=kinds, every_kind=True)
    for level in (0, 1, -0.1, math.nan):
        with pytest.raises(ConfigError, match="not between 0 and 1"):
            calibrate(np.zeros(10), level)
    with pytest.raises(ConfigError, match="no kinds are given"):
        calibrate(np.zeros(10), 0.5, every_kind=True)
    with pytest.raises(ConfigError, match="1 kinds are given for 10"):
        calibrate(np.zeros(10), 0.5, kinds=["a"])


def test_scores_that_are_no_numbers_are_named() -> None:
    scores = np.zeros(200)
    scores[[3, 7]] = math.nan
    with pytest.raises(InputError, match=r"scores of 2 of 200 benign prompts are NaN \(rows 3, 7\).*the classifier"):
        calibrate(scores, 0.05)
    with pytest.raises(InputError, match=r"\(rows 0, 1, .*, 9, \.\.\)"):
        calibrate(np.full(200, math.nan), 0.05)
