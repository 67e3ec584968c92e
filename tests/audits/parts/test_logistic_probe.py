"""Protects what is said to be readable: accuracies against values by hand, chance within its interval, options."""

from __future__ import annotations

import math

import numpy as np
import pytest

from expunge.audits.parts.logistic_probe import probe_accuracy
from expunge.errors import ConfigError, InputError


def test_a_feature_that_says_it_is_read_and_chosen_among_many_that_do_not() -> None:
    drawn = np.random.default_rng(0)
    right = ["A", "B"] * 20
    noise = drawn.normal(size=(40, 60)).astype(np.float32)
    telling = np.array([[1.0], [-1.0]] * 20) + 0.1 * drawn.normal(size=(40, 1))
    views = {"few": telling, "many": np.concatenate([telling, noise], axis=1)}
    found = probe_accuracy(views, right, [("A", "B")] * 40, splits=3)
    # the two kinds are 20 standard deviations apart
    assert found.accuracy == 1 and found.splits == (1, 1, 1) and found.readable
    assert found.stderr == 0  # no spread, and 1 (1 - 1) / 40
    assert found.views == {"few": 3, "many": 0}
    assert (found.chance, found.majority, found.rows, found.classes) == (0.5, 0.5, 40, 2)


def test_features_that_say_nothing_give_chance_within_the_interval() -> None:
    features = np.random.default_rng(1).normal(size=(60, 20))
    found = probe_accuracy({"all": features}, ["A", "B", "C"] * 20, [("A", "B", "C")] * 60, splits=4)
    assert found.chance == pytest.approx(1 / 3) and found.majority == pytest.approx(1 / 3)
    assert abs(found.accuracy - found.chance) <= 1.96 * found.stderr and not found.readable
    # (1 / 4 + 30 / 30) of the variance over the splits, unless that is less than of 60 independent answers
    spread = 1.25 * sum((one - found.accuracy) ** 2 for one in found.splits) / 3
    assert found.stderr == pytest.approx(math.sqrt(max(spread, found.accuracy * (1 - found.accuracy) / 60)))


def test_of_features_that_never_vary_the_commonest_option_is_guessed() -> None:
    right = ["A"] * 12 + ["B"] * 8
    found = probe_accuracy({"all": np.full((20, 5), 3.0, np.float32)}, right, [("A", "B", "C")] * 20, splits=2)
    # halves have 6 and 4: 6 of 10 are right; C is never right, but guessing would say it
    assert found.accuracy == found.majority == 0.6 and found.chance == pytest.approx(1 / 3)
    assert found.stderr == pytest.approx(math.sqrt(0.6 * 0.4 / 20))
    assert found.as_dict()["readable"] is False


def test_rows_are_guessed_among_their_own_options() -> None:
    # A and B look alike and never stand beside each other; C looks otherwise
    right = ["A", "B", "C", "C"] * 8
    options = [("A", "C"), ("B", "C"), ("A", "C"), ("B", "C")] * 8
    features = np.array([[1.0], [1.0], [-1.0], [-1.0]] * 8)
    found = probe_accuracy({"all": features}, right, options, splits=2)
    assert found.accuracy == 1 and found.chance == 0.5


def test_no_row_that_is_scored_was_seen() -> None:
    # each row has a feature of its own: the fitted half is told apart, and says nothing of the other
    found = probe_accuracy({"all": np.eye(40)}, ["A", "B"] * 20, [("A", "B")] * 40, splits=2)
    assert found.accuracy == 0.5


def test_rows_that_cannot_be_probed() -> None:
    features = {"all": np.zeros((9, 1))}
    with pytest.raises(InputError, match="'A' in all 9 rows"):
        probe_accuracy(features, ["A"] * 9, [("A", "B")] * 9)
    with pytest.raises(InputError, match=r"fewer than 4 rows .*: 'B' in 3, 'C' in 2"):
        probe_accuracy(features, [*"AAAABBBCC"], [("A", "B", "C")] * 9)
    with pytest.raises(ConfigError, match="splits=1"):
        probe_accuracy(features, [*"AAAABBBBB"], [("A", "B")] * 9, splits=1)


def test_a_question_seen_in_the_fitted_half_is_recognised_unless_groups_stay_together() -> None:
    # 24 questions of four rows each, features that say which question it is and nothing of its answer
    question = np.repeat(np.arange(24), 4)
    draws = np.random.default_rng(0)
    features = np.eye(24)[question] + 0.01 * draws.standard_normal((96, 24))
    right = ["ab"[number % 2] for number in question]
    options = [("a", "b")] * 96
    apart = probe_accuracy({"all": features}, right, options, groups=[str(one) for one in question], splits=6)
    mixed = probe_accuracy({"all": features}, right, options, splits=6)
    assert mixed.accuracy > 0.9 and mixed.readable
    assert not apart.readable
    with pytest.raises(InputError, match="right in one group alone cannot be in both halves: 'a'"):
        probe_accuracy({"all": features}, right, options, groups=["one" if one == "a" else str(n) for n, one in enumerate(right)])  # fmt: skip  # noqa: E501
    with pytest.raises(ConfigError, match="1 groups were passed for 96 rows"):
        probe_accuracy({"all": features}, right, options, groups=["one"])
