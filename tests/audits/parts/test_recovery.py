"""Protects the knowledge recovery score against values derived by hand, and what is left undefined."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from expunge.audits.parts.recovery import Mean, recovery_scores, squared_errors


def test_the_score_by_hand() -> None:
    # Two positions of the first example, one of the second; a vocabulary of two.
    target = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]])
    erased = torch.tensor([[2.0, 0.0], [1.0, 3.0], [2.0, 0.0]])
    patched = torch.tensor([[1.0, 0.0], [1.0, 0.0], [9.0, 0.0]])
    rows = torch.tensor([0, 0, 1])
    # Erased: 2^2 + 2^2 = 8, and 0. Patched: 1 + 1 = 2, and 49.
    before, after = squared_errors(erased, target, rows, 2), squared_errors(patched, target, rows, 2)
    assert before.tolist() == [8.0, 0.0]
    assert after.tolist() == [2.0, 49.0]
    # 1 - 2/8 = .75; the second example's erased logits are the target's, so there is nothing to recover.
    scores = recovery_scores(after.numpy(), before.numpy())
    assert scores[0] == 0.75
    assert np.isnan(scores[1])


def test_farther_off_than_before_is_below_zero_and_rounding_is_nothing() -> None:
    # 1 - 3/1 = -2; 1 - 0/4 = 1; an error of 1e-9 is below what the precision leaves open.
    scores = recovery_scores(np.array([3.0, 0.0, 5e-10]), np.array([1.0, 4.0, 1e-9]), np.full(3, 1e-8))
    assert scores[:2].tolist() == [-2.0, 1.0]
    assert np.isnan(scores[2])


def test_means_count_what_they_leave_out() -> None:
    # Of .5 and 1: mean .75, standard deviation sqrt(2 * .25^2 / 1) = .3536, error .3536 / sqrt 2 = .25. A bootstrap
    # sample of two has mean .5 or 1 with probability 1/4 each, so the 2.5% and 97.5% quantiles are these.
    mean = Mean.of(np.array([0.5, np.nan, 1.0]))
    assert (mean.value, mean.n, mean.undefined) == (0.75, 2, 1)
    assert mean.stderr == pytest.approx(0.25)
    assert (mean.low, mean.high) == (0.5, 1.0)
    assert Mean.of(np.array([np.nan, np.nan])) == Mean(None, None, None, None, 0, 2)
    assert Mean.of(np.array([0.3])).stderr is None
