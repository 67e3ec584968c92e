"""Protects DPO's value, which answer is preferred, and that each alternative meets the forget row it belongs to."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from expunge.errors import ConfigError
from expunge.methods.weights.dpo import DPO, dpo_loss
from fake_step import gradient, made_logits, scored, side, step, total
from fitting import fit
from history import read_history


@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0])
def test_at_the_start_the_loss_is_two_over_beta_log_two(beta: float) -> None:
    assert dpo_loss(torch.zeros(2), torch.zeros(2), beta).tolist() == pytest.approx([2 / beta * math.log(2)] * 2)


def test_value_and_gradient_by_hand() -> None:
    # beta 1/2, log-ratios +1 and -1: -(2/b) log sigmoid(b * 2) = 4 log(1 + e^-1) = 1.2530468; by the chosen one
    # -2 sigmoid(-1) = -0.5378828 (up), by the rejected one +0.5378828 (down).
    chosen, rejected = torch.tensor([1.0], requires_grad=True), torch.tensor([-1.0], requires_grad=True)
    loss = dpo_loss(chosen, rejected, beta=0.5)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([1.2530468])
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert (chosen.grad.item(), rejected.grad.item()) == pytest.approx((-0.5378828, 0.5378828))


def test_log_ratios_far_from_zero_stay_finite() -> None:
    # beta 1, a margin of -1e4: 2 log(1 + e^10000) = 20000; +1e4: 0.
    loss = dpo_loss(torch.tensor([-1e4, 1e4]), torch.zeros(2), beta=1.0)
    assert loss.tolist() == pytest.approx([20000.0, 0.0])


def test_each_alternative_meets_its_own_forget_row() -> None:
    # Row 0: log-ratio (-1 - 2) - (-3) = 0. Row 1: -5 - (-3) = -2. Alternatives: of row 1 with ratio -1 - (-1) = 0,
    # margin 2; of row 0 with ratio -2 - (-1) = -1, margin -1. beta 1: 2 log(1 + e^-2) = 0.2538560, 2 log(1 + e) =
    # 2.6265234; mean 1.4401897.
    forget = scored([-1.0, -2.0, -5.0], [2, 1], reference_logp=torch.tensor([-3.0, -3.0]))
    other = scored([-1.0, -2.0], [1, 1], reference_logp=torch.tensor([-1.0, -1.0]), owner=[1, 0])
    terms = DPO(beta=1.0).loss(step(forget, other, scored([-2.0, -4.0])))
    assert terms["forget_loss"].item() == pytest.approx(1.4401897)
    assert terms["retain_loss"].item() == 3.0


def test_several_alternatives_of_one_row_share_its_answer() -> None:
    # Both of row 0: margins 0 and 0, so 2 log 2 each; its answer is pushed down by both: 2 * sigmoid(0) * 2 / 2 = 1.
    logps = torch.tensor([-3.0], requires_grad=True)
    forget = scored(logps, reference_logp=torch.tensor([-3.0]))
    other = scored([-1.0, -2.0], [1, 1], reference_logp=torch.tensor([-1.0, -2.0]), owner=[0, 0])
    terms = DPO(beta=1.0, alpha=0.0).loss(step(forget, other))
    assert total(terms).item() == pytest.approx(2 * math.log(2))
    assert gradient(terms, logps).tolist() == pytest.approx([1.0])


def test_it_equals_the_definition_with_whole_distributions() -> None:
    forget, other = made_logits(4, seed=1), made_logits(3, seed=2)
    reference_f, reference_o = made_logits(4, seed=3).detach(), made_logits(3, seed=4).detach()
    y_f, y_o = [0, 3, 6, 1], [2, 5, 0]
    terms = DPO(beta=0.3, alpha=0.0).loss(
        step(
            side(forget, y_f, [3, 1], reference=reference_f),
            side(other, y_o, [1, 2], reference=reference_o, owner=[0, 1]),
        )
    )

    def logp(z: torch.Tensor, labels: list[int]) -> torch.Tensor:
        return torch.stack([(one.exp() / one.exp().sum())[y].log() for one, y in zip(z, labels, strict=True)]).sum()

    wanted = torch.zeros((), dtype=torch.float64)
    for f, o in ((slice(0, 3), slice(0, 1)), (slice(3, 4), slice(1, 3))):
        chosen = logp(other[o], y_o[o]) - logp(reference_o[o], y_o[o])
        rejected = logp(forget[f], y_f[f]) - logp(reference_f[f], y_f[f])
        wanted = wanted - (2 / 0.3) * (1 / (1 + (-0.3 * (chosen - rejected)).exp())).log() / 2
    torch.testing.assert_close(total(terms), wanted)


def test_a_fit_starts_from_log_ratios_of_zero_and_learns(tmp_path: Path) -> None:
    assert DPO().reference_logps == {"forget", "alternative"}
    fit("dpo", {"alpha": 0.0}, folder=tmp_path, epochs=8)
    losses = [line["forget_loss"] for line in read_history(tmp_path) if "loss" in line]
    assert losses[0] == pytest.approx(20 * math.log(2), abs=2e-4)
    assert losses[-1] < losses[0] - 0.5


def test_impossible_fields_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"method\.beta=0"):
        DPO.from_values({"beta": 0})
