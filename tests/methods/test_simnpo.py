"""Protects SimNPO's value and gradient, and that an answer's length does not change how hard it is pushed."""

from __future__ import annotations

import math

import pytest
import torch

from expunge.errors import ConfigError
from expunge.methods.weights.simnpo import SimNPO, simnpo_loss
from fake_step import gradient, made_logits, scored, side, step, total

LENGTHS = torch.tensor([2, 2])


def test_values_by_hand() -> None:
    # beta 2, 2 tokens of logp -1/2 each: -(2/2) log sigmoid(-(2/2)(-1) - margin) = log(1 + e^(margin - 1)):
    # margin 0: log(1 + e^-1) = 0.3132617; margin 1: log 2 = 0.6931472.
    logp = torch.tensor([-1.0, -1.0])
    assert simnpo_loss(logp, LENGTHS, beta=2.0, margin=0.0).tolist() == pytest.approx([0.3132617] * 2)
    assert simnpo_loss(logp, LENGTHS, beta=2.0, margin=1.0).tolist() == pytest.approx([0.6931472] * 2)


def test_gradient_lowers_the_answer_and_fades_as_it_falls() -> None:
    # d loss / d logp = (2/T) sigmoid((beta/T) logp + margin): sigmoid(-1) = 0.2689414 at -1, sigmoid(-100) = 0 at -100.
    logp = torch.tensor([-1.0, -100.0], requires_grad=True)
    simnpo_loss(logp, LENGTHS, beta=2.0, margin=0.0).sum().backward()
    assert logp.grad is not None
    assert logp.grad.tolist() == pytest.approx([0.2689414, 0.0])


def test_only_the_mean_log_probability_counts() -> None:
    # 2 tokens and 6 tokens of -1/2 each.
    loss = simnpo_loss(torch.tensor([-1.0, -3.0]), torch.tensor([2, 6]), beta=4.5, margin=0.3)
    assert loss[0].item() == pytest.approx(loss[1].item())


def test_log_probabilities_far_from_zero_stay_finite() -> None:
    # 0 for a forgotten answer; at logp 0 and margin 1e4, (2/beta) * 1e4 = 4444.4.
    loss = simnpo_loss(torch.tensor([-1e6, 0.0]), LENGTHS, beta=4.5, margin=0.0)
    assert loss.tolist() == pytest.approx([0.0, 2 / 4.5 * math.log(2)])
    assert simnpo_loss(torch.zeros(1), LENGTHS[:1], beta=4.5, margin=1e4).item() == pytest.approx(4444.444)


def test_rows_have_one_vote_each_and_gamma_weighs_them() -> None:
    # beta 2. Row 0: 2 tokens, sum -1: 0.3132617. Row 1: 1 token, -2: log(1 + e^-4) = 0.0181499. Mean 0.1657058, gamma
    # .5: 0.0828529. retain nll (2 + 4)/2 = 3, alpha 1.
    terms = SimNPO(beta=2.0, gamma=0.5).loss(step(scored([-0.25, -0.75, -2.0], [2, 1]), retain=scored([-2.0, -4.0])))
    assert terms["forget_loss"].item() == pytest.approx(0.0828529)
    assert terms["retain_loss"].item() == 3.0


def test_it_equals_the_definition_with_whole_distributions() -> None:
    logits, labels = made_logits(4), [0, 3, 6, 1]
    terms = SimNPO(alpha=0.0).loss(step(side(logits, labels, [1, 3])))
    p = [(z.exp() / z.exp().sum())[y] for z, y in zip(logits, labels, strict=True)]
    means = [p[0].log(), (p[1] * p[2] * p[3]).log() / 3]
    wanted = 0.125 * sum(-(2 / 4.5) * (1 / (1 + (4.5 * m).exp())).log() for m in means) / 2
    torch.testing.assert_close(total(terms), wanted)
    torch.testing.assert_close(gradient(terms, logits), torch.autograd.grad(wanted, logits)[0])


def test_no_reference_is_read_and_impossible_fields_are_refused() -> None:
    assert not SimNPO().reference_logps
    assert not SimNPO().reference_logits
    for bad in ({"beta": 0}, {"gamma": 0}, {"alpha": -1}):
        with pytest.raises(ConfigError, match=f"method.{next(iter(bad))}="):
            SimNPO.from_values(bad)
