"""Protects both signs of gradient difference: forget answers go down, retain answers are held, alpha 0 drops them."""

from __future__ import annotations

import pytest
import torch

from expunge.errors import ConfigError
from expunge.methods.weights.grad_diff import GradDiff, grad_diff_loss
from expunge.training.step import Step
from fake_step import scored
from fake_step import step as made_step


def step(forget: torch.Tensor, retain: torch.Tensor) -> Step:
    return made_step(scored(forget), retain=scored(retain))


def test_loss_is_gamma_times_the_log_probability() -> None:
    # -gamma nll = gamma logp: 2 * -1.5 = -3.
    assert grad_diff_loss(torch.tensor([-1.5]), gamma=2.0).item() == -3.0


def test_terms_by_hand() -> None:
    # forget: 2 * mean(-1, -2) = -3. retain: 0.5 * nll, nll = mean(4, 2, 3) = 3, so 1.5.
    terms = GradDiff(gamma=2.0, alpha=0.5).loss(step(torch.tensor([-1.0, -2.0]), torch.tensor([-4.0, -2.0, -3.0])))
    assert {name: term.item() for name, term in terms.items()} == {"forget_loss": -3.0, "retain_loss": 1.5}


def test_gradient_pushes_forget_down_and_retain_up() -> None:
    forget, retain = torch.tensor([-1.0], requires_grad=True), torch.tensor([-1.0], requires_grad=True)
    terms = GradDiff(gamma=3.0, alpha=2.0).loss(step(forget, retain))
    torch.stack(list(terms.values())).sum().backward()
    # d/d logp of 3 logp_f - 2 logp_r
    assert forget.grad is not None
    assert retain.grad is not None
    assert (forget.grad.item(), retain.grad.item()) == (3.0, -2.0)


def test_without_alpha_there_is_no_retain_term_and_no_retain_row_is_read() -> None:
    method = GradDiff(alpha=0.0)
    assert method.uses_retain is False
    assert list(method.loss(step(torch.tensor([-1.0]), torch.tensor([-1.0])))) == ["forget_loss"]


@pytest.mark.parametrize("bad", [{"gamma": 0}, {"gamma": -1}, {"alpha": -0.1}, {"alpha": float("inf")}])
def test_impossible_weights_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"method.{next(iter(bad))}="):
        GradDiff.from_values(bad)
