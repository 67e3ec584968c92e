"""Protects what a loss sees: sums by row, means over the whole accumulated batch, divergences, worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from expunge.errors import TrainingError
from expunge.training.step import kl_divergence
from fake_step import empty, scored, side, step


def test_logp_sums_by_row() -> None:
    assert scored([-1.0, -2.0, -4.0], [2, 1]).logp.tolist() == [-3.0, -4.0]


def test_means_of_the_parts_add_up_to_the_mean_of_the_whole() -> None:
    # Tokens 1, 2, 3 | 6: their mean is 12 / 4 = 3, not (2 + 6) / 2 = 4. Rows 6 | 6: (6 + 6) / 2 = 6.
    first, second = scored([1.0, 2.0, 3.0], totals=(4, 2)), scored([6.0], totals=(4, 2))
    parts = first.mean_over_tokens(first.logps), second.mean_over_tokens(second.logps)
    assert [part.item() for part in parts] == [1.5, 1.5]
    assert (first.mean_over_rows(first.logp) + second.mean_over_rows(second.logp)).item() == 6.0


def test_retain_term_is_alpha_times_nll() -> None:
    one = step(retain=scored([-1.0, -3.0], [1, 1]))
    assert one.retain_term(0.25)["retain_loss"].item() == 0.5  # 0.25 * (1 + 3) / 2
    assert one.retain_term(0.0) == {}


def test_retain_term_as_divergence_by_hand() -> None:
    # p_ref = (1/2, 1/2), p = (1/4, 3/4): 1/2 ln(2) + 1/2 ln(2/3) = 1/2 ln(4/3).
    logits = torch.tensor([[0.25, 0.75]]).log().requires_grad_()
    one = step(retain=side(logits, [0], reference=torch.zeros(1, 2)))
    term = one.retain_term(2.0, "kl")["retain_loss"]
    assert term.item() == pytest.approx(math.log(4 / 3))
    term.backward()
    # d KL / d logits = p - p_ref = (-1/4, 1/4), twice
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([-0.5, 0.5])


def test_divergence_is_finite_for_extreme_logits_and_zero_between_equals() -> None:
    far, near = torch.tensor([[300.0, -300.0]]), torch.tensor([[1.0, 2.0]])
    labels = torch.tensor([0])
    assert kl_divergence(-far, labels, far).item() == pytest.approx(600.0)
    assert kl_divergence(near, labels, near).item() == 0.0


def test_a_side_without_rows_gives_zeros_and_no_nan() -> None:
    assert empty().logp.shape == (0,)
    assert empty().mean_over_tokens(empty().logps).item() == 0.0


def test_what_was_not_asked_for_is_an_error() -> None:
    with pytest.raises(TrainingError, match="reference_logps"):
        _ = scored([-1.0]).reference_logp
    with pytest.raises(TrainingError, match="reads_layer"):
        _ = scored([-1.0]).states
