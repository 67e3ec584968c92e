"""Protects leak@k: its estimates against counting every choice of k samples, and its bounds."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest

from expunge.audits.parts.best_of_k import best_of_k, leak_bounds
from expunge.errors import ConfigError


def test_the_best_of_k_is_the_mean_over_all_choices_of_k() -> None:
    scores = np.array([[0.2, 0.9, 0.2, 0.5], [0.0, 0.0, 1.0, 0.0]])
    # k = 2, first row, its six pairs: (.2 .9) .9, (.2 .2) .2, (.2 .5) .5, (.9 .2) .9, (.9 .5) .9, (.2 .5) .5: 3.9 / 6;
    # second row: the one leak is in 3 of 6 pairs
    np.testing.assert_allclose(best_of_k(scores, 2), [3.9 / 6, 0.5])
    for k in (1, 2, 3, 4):
        every = [[max(some) for some in combinations(row, k)] for row in scores.tolist()]
        np.testing.assert_allclose(best_of_k(scores, k), np.mean(every, axis=1))


def test_yes_and_no_is_the_same_in_closed_form() -> None:
    # c = 1 of n = 4, k = 2: 1 - C(3, 2) / C(4, 2) = 1 - 3 / 6; c = 3: no two are without a leak
    four = np.array([[0.0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 1], [1, 1, 1, 1]])
    np.testing.assert_allclose(best_of_k(four, 2), [0, 0.5, 1, 1])
    scores = (np.random.default_rng(0).random((30, 200)) < 0.03).astype(float)
    for k in (1, 7, 64, 200):
        pass_at_k = [1 - comb(200 - int(count), k) / comb(200, k) for count in scores.sum(1)]
        np.testing.assert_allclose(best_of_k(scores, k), pass_at_k, atol=1e-12)


def test_it_is_unbiased() -> None:
    # leaks of chance 0.1 each: 1 - 0.9^8 = 0.570; the error of the mean over 4,000 rows is 0.004
    scores = (np.random.default_rng(1).random((4000, 20)) < 0.1).astype(float)
    assert best_of_k(scores, 8).mean() == pytest.approx(1 - 0.9**8, abs=0.016)


def test_a_row_without_a_score_has_none() -> None:
    found = best_of_k(np.array([[0.1, float("nan")], [0.1, 0.2]]), 1)
    assert np.isnan(found[0]) and found[1] == pytest.approx(0.15)


def test_bounds_of_a_chance() -> None:
    low, high = leak_bounds(np.array([0, 10]), 10, 1)
    # with none of 10: (1 - p)^10 = 0.025 at the upper end; with all of 10: p^10 = 0.025 at the lower one
    np.testing.assert_allclose(low, [0, 0.025**0.1])
    np.testing.assert_allclose(high, [1 - 0.025**0.1, 1])
    low, high = leak_bounds(np.array([0, 10]), 10, 5)
    np.testing.assert_allclose(high, [1 - 0.025**0.5, 1])
    np.testing.assert_allclose(low, [0, 1 - (1 - 0.025**0.1) ** 5])
    low, high = leak_bounds(np.array([3]), 10, 2)
    assert low[0] < 1 - comb(7, 2) / comb(10, 2) < high[0]


def test_k_beyond_the_samples_is_refused() -> None:
    for k in (0, 5):
        with pytest.raises(ConfigError, match=f"k={k} of 4 samples"):
            best_of_k(np.zeros((1, 4)), k)
        with pytest.raises(ConfigError, match="Draw more"):
            leak_bounds(np.array([1]), 4, k)
