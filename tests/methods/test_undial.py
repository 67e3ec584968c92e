"""Protects UNDIAL's teacher (the target's logits, the answer's lowered) and that the loss ends where it is reached."""

from __future__ import annotations

import math

import pytest
import torch

from expunge.errors import ConfigError
from expunge.methods.weights.undial import UNDIAL, undial_loss
from fake_step import gradient, made_logits, side, step, total

LN3 = math.log(3.0)


def test_value_and_gradient_by_hand() -> None:
    # z_ref (ln 3, 0), label 0, beta ln 3: teacher softmax(0, 0) = (1/2, 1/2). z (ln 3, 0): p = (3/4, 1/4).
    # cross-entropy -1/2 ln(3/4) - 1/2 ln(1/4) = 0.8369882; by a logit p - teacher = (1/4, -1/4).
    logits = torch.tensor([[LN3, 0.0]], requires_grad=True)
    reference = torch.tensor([[LN3, 0.0]], requires_grad=True)
    loss = undial_loss(logits, torch.tensor([0]), reference, beta=LN3)
    assert loss.tolist() == pytest.approx([0.8369882])
    loss.sum().backward()
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([0.25, -0.25])
    assert reference.grad is None


def test_it_ends_where_the_teacher_is_reached() -> None:
    reference, labels = made_logits(3).detach(), torch.tensor([0, 4, 6])
    reached = reference.clone()
    reached[torch.arange(3), labels] -= 10.0
    logits = (reached + 7.0).requires_grad_()  # a constant changes no distribution
    undial_loss(logits, labels, reference, beta=10.0).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), atol=1e-12, rtol=0)


def test_it_equals_the_definition_with_whole_distributions() -> None:
    logits, reference, labels = made_logits(4), made_logits(4, seed=1).detach(), [0, 3, 6, 1]
    terms = UNDIAL(beta=3.0).loss(step(side(logits, labels, [1, 3], reference=reference)))
    wanted = torch.zeros((), dtype=torch.float64)
    for z, r, y in zip(logits, reference, labels, strict=True):
        lowered = torch.stack([value - 3.0 * (place == y) for place, value in enumerate(r)])
        teacher = lowered.exp() / lowered.exp().sum()
        wanted = wanted - (teacher * (z.exp() / z.exp().sum()).log()).sum() / 4
    torch.testing.assert_close(total(terms), wanted)
    torch.testing.assert_close(gradient(terms, logits), torch.autograd.grad(wanted, logits)[0])


def test_logits_far_apart_stay_finite() -> None:
    # The teacher all on token 1, the model all on token 0: cross-entropy 2e4.
    logits = torch.tensor([[1e4, -1e4]], requires_grad=True)
    loss = undial_loss(logits, torch.tensor([0]), torch.tensor([[-1e4, 1e4]]), beta=10.0)
    loss.sum().backward()
    assert loss.item() == pytest.approx(2e4)
    assert logits.grad is not None
    assert logits.grad[0].tolist() == [1.0, -1.0]


def test_retain_rows_are_read_only_where_alpha_asks_for_them() -> None:
    assert UNDIAL().sides(0) == {"forget"}
    assert UNDIAL().reference_logits == {"forget"}
    assert UNDIAL(alpha=1.0).reference_logits == {"forget"}
    assert UNDIAL(alpha=1.0, retain="kl").reference_logits == {"forget", "retain"}
    with pytest.raises(ConfigError, match=r"method\.beta=0"):
        UNDIAL.from_values({"beta": 0})
