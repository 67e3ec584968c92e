"""Protects WGA's weight: the token's own probability, through which no gradient flows."""

from __future__ import annotations

import math

import pytest
import torch

from expunge.errors import ConfigError
from expunge.methods.weights.wga import WGA, wga_loss
from fake_step import gradient, made_logits, scored, side, step, total


@pytest.mark.parametrize(
    ("beta", "value", "slope"),
    [
        # p 1/2: p^beta ln p with ln p = -0.6931472; the gradient by ln p is p^beta, not p^beta (1 + beta ln p).
        (0.0, -0.6931472, 1.0),
        (1.0, -0.3465736, 0.5),
        (2.0, -0.1732868, 0.25),
    ],
)
def test_value_and_gradient_by_hand(beta: float, value: float, slope: float) -> None:
    logps = torch.tensor([0.5]).log().requires_grad_()
    loss = wga_loss(logps, beta)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([value])
    assert logps.grad is not None
    assert logps.grad.tolist() == pytest.approx([slope])


def test_it_is_bounded_and_fades_at_both_ends() -> None:
    # p ln p is least at p = 1/e: -1/e.
    logps = torch.tensor([0.0, -1.0, -1e4], requires_grad=True)
    loss = wga_loss(logps, 1.0)
    assert loss.tolist() == pytest.approx([0.0, -1 / math.e, 0.0])
    loss.sum().backward()
    assert logps.grad is not None
    assert logps.grad.tolist() == pytest.approx([1.0, 1 / math.e, 0.0])


def test_a_mean_over_tokens_beside_the_retain_term() -> None:
    # mean over 2 tokens of p ln p: (-0.3465736 - 0.3465736)/2 (1/4 ln 1/4 is the same as 1/2 ln 1/2); retain 3.
    logs = torch.tensor([0.5, 0.25]).log()
    terms = WGA().loss(step(scored(logs), retain=scored([-3.0])))
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {"forget_loss": -0.3465736, "retain_loss": 3.0}
    )


def test_it_equals_the_definition_with_whole_distributions() -> None:
    logits, labels = made_logits(4), [0, 3, 6, 1]
    terms = WGA(beta=0.7, alpha=0.0).loss(step(side(logits, labels, [1, 3])))
    p = torch.stack([(z.exp() / z.exp().sum())[y] for z, y in zip(logits, labels, strict=True)])
    wanted = (p.detach() ** 0.7 * p.log()).sum() / 4
    torch.testing.assert_close(total(terms), wanted)
    torch.testing.assert_close(gradient(terms, logits), torch.autograd.grad(wanted, logits)[0])


def test_impossible_fields_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"method\.beta=-1"):
        WGA.from_values({"beta": -1})
