"""Protects the standard errors: bootstrap agrees with theory, keeps rows whole, and repeats itself."""

from __future__ import annotations

import numpy as np
import pytest

from expunge.evaluation.uncertainty import bootstrap_stderr, mean_stderr, resampled_means


def test_bootstrap_of_a_mean_is_its_analytic_standard_error() -> None:
    column = np.random.default_rng(1).normal(size=500)
    # the bootstrap's own variance has n, not n - 1, in it: sqrt(499/500) is lost in the tolerance
    found = bootstrap_stderr(column[:, None], lambda means: means[..., 0])
    assert found == pytest.approx(mean_stderr(column), rel=0.05)


def test_bootstrap_keeps_rows_whole() -> None:
    column = np.random.default_rng(2).normal(size=50)
    table = np.stack([column, -column], axis=1)
    # x and -x of the same rows always cancel
    assert bootstrap_stderr(table, lambda means: means.sum(axis=-1)) == pytest.approx(0.0, abs=1e-12)


def test_same_examples_same_error() -> None:
    table = np.arange(12.0).reshape(6, 2)
    assert np.array_equal(resampled_means(table), resampled_means(table))


def test_undefined_entries_take_no_part() -> None:
    table = np.array([[2.0, np.nan], [2.0, 3.0], [2.0, 3.0]])
    means = resampled_means(table)
    assert (means[:, 0] == 2.0).all()
    assert np.nanmin(means[:, 1]) == np.nanmax(means[:, 1]) == 3.0
    # all three draws the first row: (1/3)^3 = 1/27 of the samples have no second column
    assert np.isnan(means[:, 1]).mean() == pytest.approx(1 / 27, abs=0.02)


def test_one_example_has_no_error() -> None:
    assert mean_stderr(np.array([1.0])) is None
    assert bootstrap_stderr(np.array([[1.0]]), lambda means: means[..., 0]) is None
