"""Protects the membership attacks' numbers: each score, AUC with ties, rates at few false alarms, privleak."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from expunge.audits.parts.membership_attacks import (
    least_share,
    loss_score,
    privleak,
    separation,
    standardised,
    true_positive_rate,
    zlib_score,
)
from expunge.errors import ConfigError

LOGPS = np.array([-1.0, -4.0, -2.0, -0.5, -3.5])


def test_scores_of_one_text() -> None:
    assert loss_score(LOGPS) == pytest.approx(-11 / 5)
    text = "abc" * 20
    assert zlib_score(LOGPS, text) == pytest.approx(-2.2 / len(zlib.compress(text.encode())))
    # 40% of five tokens are the two lowest, 20% the lowest; 1% still takes one
    assert least_share(LOGPS, 40) == pytest.approx((-4.0 - 3.5) / 2)
    assert least_share(LOGPS, 20) == least_share(LOGPS, 1) == -4.0
    assert least_share(LOGPS, 100) == pytest.approx(-2.2)
    assert np.isnan(least_share(LOGPS[:0], 20)) and np.isnan(loss_score(LOGPS[:0]))
    for bad in (0, 101):
        with pytest.raises(ConfigError, match="percentage"):
            least_share(LOGPS, bad)


def test_standardised_log_probabilities() -> None:
    # p = (1/2, 1/4, 1/4): E log p = -(1/2 + 1/4 2 + 1/4 2) ln 2 = -1.5 ln 2; the deviation is ln 2 / 2, as log p is
    # half a ln 2 above or below its mean with equal chance. A token of chance 1/4: (-2 + 1.5) / 0.5 = -1.
    two = np.log(2)
    found = standardised(
        np.array([-two, -2 * two, -3.0]), np.array([-1.5 * two] * 2 + [-3.0]), np.array([two / 2] * 2 + [0])
    )
    np.testing.assert_allclose(found, [1.0, -1.0, np.nan])
    assert least_share(found, 100) == pytest.approx(0.0)  # what is undefined is left out


def test_auc_counts_ties_as_half() -> None:
    # 3 beats 1, 2, 2 (3 wins); 2 beats 1 and ties twice (2 wins): 5 of 6
    found = separation([3, 2], [1, 2, 2])
    assert found.auc == pytest.approx(5 / 6)
    assert (found.n, found.others, found.undefined) == (2, 3, 0)
    assert found.low <= found.auc <= found.high
    # the other way about it is the rest
    assert separation([1, 2, 2], [3, 2]).auc == pytest.approx(1 / 6)
    assert separation([1, 1], [1, 1, 1]).auc == 0.5
    sure = separation([5, 6, 7], [1, 2])
    # wholly apart: two pairs that share no row, both won; 2.5% of the time so at a chance of sqrt(0.025) = 0.158
    assert (sure.auc, sure.low, sure.high, sure.stderr) == (1, pytest.approx(0.158114, abs=1e-6), 1, None)
    other = separation([1, 2, 3], [5, 6, 7, 8])  # three pairs, none won: up to 1 - 0.025^(1/3) = 0.7076
    assert (other.auc, other.low, other.high) == (0, 0, pytest.approx(0.7076, abs=1e-4))
    # 40 and 40: 0.025^(1/40) = exp(-3.6889 / 40) = 0.9119
    assert separation(np.arange(40) + 50.0, np.arange(40.0)).low == pytest.approx(0.9119, abs=1e-4)
    for one in (sure, other, found):  # no rounding beyond 0 and 1
        assert one.draws.min() >= 0 and one.draws.max() <= 1


def test_rows_without_a_score_are_left_out_and_counted() -> None:
    found = separation([3, float("nan"), 2], [1, 2, 2, float("nan")])
    assert (found.auc, found.n, found.others, found.undefined) == (pytest.approx(5 / 6), 2, 3, 2)
    nothing = separation([float("nan")], [1.0])
    assert np.isnan(nothing.auc) and nothing.stderr is None and nothing.undefined == 1


def test_intervals_cover_a_half_where_both_sets_are_drawn_alike() -> None:
    generator = np.random.default_rng(3)
    inside = 0
    for _ in range(60):
        found = separation(generator.normal(size=40), generator.normal(size=50))
        inside += found.low <= 0.5 <= found.high
    # 95% of 60 is 57; with 50 or fewer the interval would be too narrow (p < 0.001)
    assert inside > 50


def test_rates_at_few_false_alarms() -> None:
    holdout = np.arange(100.0)  # 1% of 100: one may pass, so that the threshold is the second highest, 98
    forget = np.array([97.0, 98.0, 98.5, 99.0, 200.0])
    assert true_positive_rate(forget, holdout, 0.01) == 3 / 5
    assert true_positive_rate(forget, holdout, 0.05) == 1.0  # five may pass: above 94
    # 1% of 50 is none: only what is above all of them counts, and what ties with the highest does not
    assert true_positive_rate(np.array([49.0, 49.5]), np.arange(50.0), 0.01) == 1 / 2
    assert true_positive_rate(np.array([1.0]), np.array([1.0, 1.0]), 0.05) == 0


def test_privleak() -> None:
    # a = 0.8, a_r = 0.5: 100 (0.2 - 0.5) / 0.5 = -60; less than the control's: 100 (0.7 - 0.5) / 0.5 = 40
    assert privleak(0.8, 0.5) == pytest.approx(-60)
    assert privleak(0.3, 0.5) == pytest.approx(40)
    assert privleak(0.6, 0.6) == 0
    assert np.isnan(privleak(0.5, 1.0))
