"""Protects SCRUB's softened distance, its direction in max and min epochs, and which rows each epoch reads."""

from __future__ import annotations

import json
import math

import pytest
import torch

from expunge.errors import ConfigError
from expunge.methods.registry import make_method
from expunge.methods.weights.scrub import SCRUB, scrub_distance
from fake_step import gradient, made_logits, scored, side, step, total


def test_distance_by_hand() -> None:
    # T 2, z (2 ln 3, 0), z_ref (0, 0). Softened p = (3/4, 1/4), p_ref = (1/2, 1/2): KL = 1/2 ln(4/3) = 0.1438410, times
    # T^2 = 4: 0.5753641. d/dz = T (p - p_ref) = (1/2, -1/2). The KL the other way round would give 0.5232.
    logits = torch.tensor([[2 * math.log(3.0), 0.0]], requires_grad=True)
    reference = torch.zeros(1, 2, requires_grad=True)
    distance = scrub_distance(logits, torch.tensor([1]), reference, temperature=2.0)
    assert distance.tolist() == pytest.approx([0.5753641])
    distance.sum().backward()
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([0.5, -0.5])
    assert reference.grad is None
    assert scrub_distance(reference, torch.tensor([0]), reference, temperature=2.0).item() == 0


def test_each_token_is_normalised_over_the_vocabulary_not_over_the_answer() -> None:
    # A constant added to one token's logits changes nothing.
    logits, reference = made_logits(3), made_logits(3, seed=1).detach()
    labels = torch.tensor([0, 1, 2])
    shifted = logits + torch.tensor([[0.0], [5.0], [-3.0]])
    torch.testing.assert_close(
        scrub_distance(shifted, labels, reference, temperature=4.0),
        scrub_distance(logits, labels, reference, temperature=4.0),
    )


def test_max_epochs_move_away_on_forget_rows() -> None:
    logits = torch.tensor([[2 * math.log(3.0), 0.0]], requires_grad=True)
    terms = SCRUB(T=2.0).loss(step(side(logits, [0], reference=torch.zeros(1, 2)), epoch=0))
    assert {name: term.item() for name, term in terms.items()} == pytest.approx({"forget_loss": -0.5753641})
    assert gradient(terms, logits)[0].tolist() == pytest.approx([-0.5, 0.5])


def test_min_epochs_come_near_on_retain_rows() -> None:
    # a 0.1 * 0.5753641 = 0.0575364; g 2 * nll = 2 ln(1 + 1/9) = 0.2107210 (p of token 0 without softening: 9/10).
    logits = torch.tensor([[2 * math.log(3.0), 0.0]], requires_grad=True)
    terms = SCRUB(T=2.0, a=0.1, g=2.0).loss(step(retain=side(logits, [0], reference=torch.zeros(1, 2)), epoch=1))
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {"retain_loss": 0.2107210, "retain_distance": 0.0575364}
    )
    # 0.1 (1/2, -1/2) + 2 (p - onehot) = (0.05 - 0.2, -0.05 + 0.2)
    assert gradient(terms, logits)[0].tolist() == pytest.approx([-0.15, 0.15])


def test_it_equals_the_definition_with_whole_distributions() -> None:
    logits, reference, labels = made_logits(5), made_logits(5, seed=1).detach(), [2, 2, 5, 0, 4]

    def p(z: torch.Tensor, power: float) -> torch.Tensor:
        soft = (z.exp() / z.exp().sum()) ** power
        return soft / soft.sum()

    def kl(z: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        return (p(r, 1 / 4) * (p(r, 1 / 4) / p(z, 1 / 4)).log()).sum()

    far = 16 * sum(kl(z, r) for z, r in zip(logits, reference, strict=True)) / 5
    nll = -sum(p(z, 1)[y].log() for z, y in zip(logits, labels, strict=True)) / 5
    answers = side(logits, labels, [2, 3], reference=reference)
    torch.testing.assert_close(total(SCRUB().loss(step(answers, epoch=2))), -far)
    torch.testing.assert_close(total(SCRUB().loss(step(retain=answers, epoch=3))), 0.001 * far + nll)


def test_which_rows_each_epoch_reads() -> None:
    method = SCRUB()
    assert [set(method.sides(epoch)) for epoch in range(7)] == [
        {"forget"},
        {"retain"},
        {"forget"},
        {"retain"},
        {"retain"},
        {"retain"},  # beyond the list: min
        {"retain"},
    ]
    assert method.whole_epochs
    assert method.reference_logits == {"forget", "retain"}
    assert SCRUB(a=0.0).reference_logits == {"forget"}
    assert list(SCRUB(a=0.0).loss(step(retain=scored([-1.0]), epoch=1))) == ["retain_loss"]
    assert list(SCRUB(g=0.0).loss(step(retain=side(torch.zeros(1, 2), [0], reference=torch.zeros(1, 2)), epoch=1))) == [
        "retain_distance"
    ]
    assert SCRUB(order=("min",)).sides(0) == {"retain"}


def test_a_run_that_ends_on_a_max_epoch_is_remarked() -> None:
    # max min max min min: epochs 1 and 3 are max, the third of 2.5 is too; beyond the list all are min.
    remarked = {epochs: SCRUB().remark(epochs) is not None for epochs in (0.3, 1, 2, 2.5, 3, 4, 5, 7)}
    assert remarked == {0.3: True, 1: True, 2: False, 2.5: True, 3: True, 4: False, 5: False, 7: False}
    assert "epoch 3, the last one planned, is a max epoch" in (SCRUB().remark(2.5) or "")


def test_the_order_is_plain_data() -> None:
    values = json.loads(json.dumps(SCRUB(order=("max", "min")).values()))
    assert values["order"] == ["max", "min"] == SCRUB(order=("max", "min")).values()["order"]
    assert make_method("scrub", values) == SCRUB(order=("max", "min"))
    with pytest.raises(ConfigError, match=r"method\.order\.1='up': Input should be 'max' or 'min'"):
        SCRUB.from_values({"order": ["max", "up"]})
    with pytest.raises(ConfigError, match=r"method\.order="):
        SCRUB.from_values({"order": []})
    with pytest.raises(ConfigError, match="a and g are both 0"):
        SCRUB(a=0.0, g=0.0)
