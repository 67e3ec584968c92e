"""Protects SatImp's weight: which power belongs to p and which to 1 - p, and that no gradient flows through it."""

from __future__ import annotations

import pytest
import torch

from expunge.errors import ConfigError
from expunge.methods.weights.satimp import SatImp, satimp_loss
from fake_step import gradient, made_logits, scored, side, step, total


def test_value_and_gradient_by_hand() -> None:
    # p 1/4, beta1 2, beta2 1: (1/16)(3/4) = 0.046875; times ln(1/4) = -1.3862944: -0.0649826. With the powers swapped
    # the weight would be (1/4)(9/16) = 0.140625.
    logps = torch.tensor([0.25]).log().requires_grad_()
    loss = satimp_loss(logps, beta1=2.0, beta2=1.0)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([-0.0649826])
    assert logps.grad is not None
    assert logps.grad.tolist() == pytest.approx([0.046875])


def test_certain_and_unlikely_tokens_are_left_alone() -> None:
    logps = torch.tensor([0.0, -1e4, 1e-7], requires_grad=True)  # the last is rounding above probability 1
    loss = satimp_loss(logps, beta1=5.0, beta2=0.5)
    loss.sum().backward()
    assert loss.tolist() == [0.0, 0.0, 0.0]
    assert logps.grad is not None
    assert logps.grad.tolist() == [0.0, 0.0, 0.0]


def test_powers_of_zero_are_gradient_ascent() -> None:
    logps = torch.tensor([0.0, -1.0, -50.0], requires_grad=True)
    loss = satimp_loss(logps, beta1=0.0, beta2=0.0)
    loss.sum().backward()
    assert loss.tolist() == [0.0, -1.0, -50.0]
    assert logps.grad is not None
    assert logps.grad.tolist() == [1.0, 1.0, 1.0]


def test_the_weight_keeps_its_digits_where_p_is_near_one() -> None:
    # p = e^-1e-6: 1 - p = 1e-6 to 6 digits, which 1 - exp(-1e-6) in float32 (9.5e-7) is not.
    assert satimp_loss(torch.tensor([-1e-6]), 0.0, 1.0).item() == pytest.approx(-1e-12, rel=1e-5)


def test_a_mean_over_tokens_beside_a_light_retain_term() -> None:
    # p 1/2: 2^-5 * 1/2 * ln(1/2) = -0.01083042; retain 0.1 * 3.
    terms = SatImp().loss(step(scored(torch.tensor([0.5, 0.5]).log()), retain=scored([-3.0])))
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {"forget_loss": -0.01083042, "retain_loss": 0.3}
    )


def test_it_equals_the_definition_with_whole_distributions() -> None:
    logits, labels = made_logits(4), [0, 3, 6, 1]
    terms = SatImp(beta1=1.5, beta2=0.5, alpha=0.0).loss(step(side(logits, labels, [1, 3])))
    p = torch.stack([(z.exp() / z.exp().sum())[y] for z, y in zip(logits, labels, strict=True)])
    wanted = (p.detach() ** 1.5 * (1 - p.detach()) ** 0.5 * p.log()).sum() / 4
    torch.testing.assert_close(total(terms), wanted)
    torch.testing.assert_close(gradient(terms, logits), torch.autograd.grad(wanted, logits)[0])


def test_impossible_fields_are_refused() -> None:
    for bad in ({"beta1": -1}, {"beta2": -0.5}, {"alpha": -1}):
        with pytest.raises(ConfigError, match=f"method.{next(iter(bad))}="):
            SatImp.from_values(bad)
