"""Protects both halves of KL minimisation: the ascent on forget tokens, and the KL and its direction on retain ones."""

from __future__ import annotations

import math

import pytest
import torch

from expunge.errors import ConfigError
from expunge.methods.weights.kl_min import KLMin, kl_min_loss
from fake_step import gradient, made_logits, scored, side, step, total

THREE_TO_ONE = [[math.log(3.0), 0.0]]  # p = (3/4, 1/4)
EVEN = torch.zeros(1, 2)  # p_ref = (1/2, 1/2)


def test_terms_by_hand() -> None:
    # forget: -nll = mean(-1, -3) = -2. retain: KL(ref || theta) = 1/2 ln(2/3) + 1/2 ln 2 = 1/2 ln(4/3) = 0.1438410, the
    # other way round it would be 3/4 ln(3/2) + 1/4 ln(1/2) = 0.1308; alpha 2.
    logits = torch.tensor(THREE_TO_ONE, requires_grad=True)
    terms = KLMin(alpha=2.0).loss(step(scored([-1.0, -3.0]), retain=side(logits, [0], reference=EVEN)))
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {"forget_loss": -2.0, "retain_loss": 0.2876821}
    )
    # d KL / d z = p - p_ref = (1/4, -1/4).
    assert gradient({"retain_loss": terms["retain_loss"]}, logits)[0].tolist() == pytest.approx([0.5, -0.5])


def test_descending_lowers_every_forget_token() -> None:
    logps = torch.tensor([-1.0, -3.0], requires_grad=True)
    assert gradient(KLMin(alpha=0.0).loss(step(scored(logps))), logps).tolist() == [0.5, 0.5]
    assert kl_min_loss(torch.tensor([-0.25])).item() == -0.25


def test_without_alpha_nothing_is_read_of_the_retain_rows() -> None:
    method = KLMin(alpha=0.0)
    assert method.sides(0) == {"forget"}
    assert not method.reference_logits
    assert list(method.loss(step(scored([-1.0])))) == ["forget_loss"]
    assert KLMin().reference_logits == {"retain"}
    with pytest.raises(ConfigError, match=r"method\.retain: no such field of kl_min"):
        KLMin.from_values({"retain": "nll"})


def test_it_equals_the_definition_with_whole_distributions() -> None:
    forget, retain, reference = made_logits(4, seed=1), made_logits(5, seed=2), made_logits(5, seed=3).detach()
    y_f, y_r = [0, 3, 6, 1], [2, 2, 5, 0, 4]
    terms = KLMin(alpha=0.7).loss(
        step(side(forget, y_f, [1, 3]), retain=side(retain, y_r, [2, 3], reference=reference))
    )

    def p(z: torch.Tensor) -> torch.Tensor:
        return z.exp() / z.exp().sum()

    nll = -sum(p(z)[y].log() for z, y in zip(forget, y_f, strict=True)) / 4
    kl = sum((p(r) * (p(r) / p(z)).log()).sum() for z, r in zip(retain, reference, strict=True)) / 5
    torch.testing.assert_close(total(terms), -nll + 0.7 * kl)
