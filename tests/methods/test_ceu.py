"""Protects CE-U's teacher, its bounded gradient, and the mean that leaves out the first answer tokens exactly."""

from __future__ import annotations

import math

import pytest
import torch

from expunge.errors import ConfigError
from expunge.methods.weights.ceu import CEU, ceu_loss
from fake_step import gradient, made_logits, side, step, total

LN2 = math.log(2.0)


def test_value_and_gradient_by_hand() -> None:
    # p = (1/2, 1/4, 1/4), label 0: teacher (0, 1/2, 1/2), cross-entropy -ln(1/4) = 1.3862944. By a logit p - teacher =
    # (1/2, -1/4, -1/4); with a gradient through the teacher it would not be that.
    logits = torch.tensor([[LN2, 0.0, 0.0]], requires_grad=True)
    loss = ceu_loss(logits, torch.tensor([0]))
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([1.3862944])
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([0.5, -0.25, -0.25])


def test_gradient_is_the_answers_probability_at_both_ends() -> None:
    # p_y = 1: (1, -1/2, -1/2), where gradient ascent has none. p_y = 0: none, where it has a full one.
    logits = torch.tensor([[1e4, 0.0, 0.0], [-1e4, 0.0, 0.0]], requires_grad=True)
    loss = ceu_loss(logits, torch.tensor([0, 0]))
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([1e4, LN2])
    assert logits.grad is not None
    assert logits.grad.tolist() == [[1.0, -0.5, -0.5], [0.0, 0.0, 0.0]]


def tokens_of_loss(values: list[float]) -> torch.Tensor:
    """[N, 2] logits whose CE-U loss for label 0 is ln(1 + e^value): -ln p of the other token."""
    return torch.tensor([[value, 0.0] for value in values])


def test_the_mean_is_over_the_tokens_that_are_not_skipped() -> None:
    # Losses ln 2, ln(1 + e), ln(1 + e^2) = 0.6931472, 1.3132617, 2.1269280 in row 0 and ln 2 in row 1 of one token.
    forget = side(tokens_of_loss([0.0, 1.0, 2.0, 0.0]), [0, 0, 0, 0], [3, 1])

    def loss(skip: int) -> float:
        return CEU(skip=skip).loss(step(forget))["forget_loss"].item()

    assert loss(0) == pytest.approx((0.6931472 + 1.3132617 + 2.1269280 + 0.6931472) / 4)
    assert loss(1) == pytest.approx((1.3132617 + 2.1269280) / 2)  # row 1 takes no part
    with pytest.raises(ConfigError, match=r"method\.skip=2: a forget answer has 1 tokens"):
        loss(2)


def test_parts_of_a_batch_add_up_with_short_rows_among_them() -> None:
    # The batch of the test above in two parts: 4 tokens in 2 rows altogether, 2 of them skipped.
    long = side(tokens_of_loss([0.0, 1.0, 2.0]), [0, 0, 0], totals=(4, 2))
    short = side(tokens_of_loss([0.0]), [0], totals=(4, 2))
    parts = [CEU().loss(step(part))["forget_loss"].item() for part in (long, short)]
    assert parts == pytest.approx([(1.3132617 + 2.1269280) / 2, 0.0])


def test_answers_of_skipped_tokens_alone_give_zero() -> None:
    logits = torch.zeros(2, 3, requires_grad=True)
    terms = CEU().loss(step(side(logits, [0, 1], [1, 1])))
    assert terms["forget_loss"].item() == 0
    assert gradient(terms, logits).tolist() == [[0.0] * 3] * 2


def test_totals_may_be_tensors() -> None:
    forget = side(tokens_of_loss([0.0, 1.0]), [0, 0], totals=(torch.tensor(2.0), torch.tensor(1.0)))  # type: ignore[arg-type]
    assert CEU().loss(step(forget))["forget_loss"].item() == pytest.approx(1.3132617)


def test_it_equals_the_definition_with_whole_distributions() -> None:
    logits, labels, lengths = made_logits(6), [0, 3, 6, 1, 1, 2], [2, 4]
    terms = CEU().loss(step(side(logits, labels, lengths)))
    wanted = torch.zeros((), dtype=torch.float64)
    for place in (1, 3, 4, 5):  # all but the first of each row
        p = logits[place].exp() / logits[place].exp().sum()
        others = [v for v in range(7) if v != labels[place]]
        q = p[others].detach() / (1 - p[labels[place]].detach())
        wanted = wanted - (q * p[others].log()).sum() / 4
    torch.testing.assert_close(total(terms), wanted)
    torch.testing.assert_close(gradient(terms, logits), torch.autograd.grad(wanted, logits)[0])


def test_it_reads_forget_rows_alone() -> None:
    assert CEU().sides(0) == {"forget"}
    assert not CEU().uses_retain
    with pytest.raises(ConfigError, match=r"method\.skip=-1"):
        CEU.from_values({"skip": -1})
