"""Protects the sign and the averaging of gradient ascent: minimising its loss lowers the forget answers."""

from __future__ import annotations

import pytest
import torch

from expunge.methods.weights.grad_ascent import GradAscent, grad_ascent_loss
from fake_step import scored, step
from fitting import fit


def test_loss_is_the_log_probability_itself() -> None:
    # nll is -logp, so -nll is logp: two tokens of probability 1/2 and 1/8 give log 1/2 = -0.6931 and log 1/8 = -2.0794.
    assert grad_ascent_loss(torch.tensor([0.5, 0.125]).log()).tolist() == pytest.approx([-0.693147, -2.079442])


def test_one_token_has_one_vote() -> None:
    # Row 0 has one token of logp -4, row 1 three of logp -1. Over tokens: (-4 - 3) / 4 = -1.75; over rows: -2.5.
    forget = scored([-4.0, -1.0, -1.0, -1.0], [1, 3])
    assert GradAscent().loss(step(forget))["forget_loss"].item() == pytest.approx(-1.75)


def test_descending_on_the_loss_lowers_every_forget_token() -> None:
    logps = torch.tensor([-4.0, -1.0], requires_grad=True)
    GradAscent().loss(step(scored(logps)))["forget_loss"].backward()
    # d loss / d logp = +1/2 for each of 2 tokens; a step against it takes the log-probability down.
    assert logps.grad is not None
    assert logps.grad.tolist() == [0.5, 0.5]


def test_it_trains_without_retain_rows() -> None:
    from expunge.requests import Request
    from fitting import REQUEST

    assert GradAscent().uses_retain is False
    erasure = fit("grad_ascent", request=Request(forget=REQUEST.forget), max_steps=1)
    assert erasure.details["tensors_changed"] > 0
