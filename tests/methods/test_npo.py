"""Protects NPO's value, the direction and size of its gradient, and its limit of gradient ascent."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from expunge.errors import ConfigError
from expunge.methods.weights.npo import NPO, npo_loss
from fake_step import scored, step
from fitting import fit
from history import read_history


@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0])
def test_at_the_start_the_loss_is_two_over_beta_log_two(beta: float) -> None:
    # log-ratio 0: -(2/beta) log sigmoid(0) = (2/beta) log 2; 13.8629 for beta 0.1.
    loss = npo_loss(torch.tensor([-3.0, -250.0]), torch.tensor([-3.0, -250.0]), beta)
    assert loss.tolist() == pytest.approx([2 / beta * math.log(2)] * 2)


def test_values_by_hand() -> None:
    # beta 1/2, log-ratio d = logp - ref. -(2/b) log sigmoid(-b d) = 4 log(1 + exp(d/2)).
    # d = -2 (forgotten): 4 log(1 + e^-1) = 4 * 0.3132617 = 1.2530468
    # d = +2 (learned):   4 log(1 + e)    = 4 * 1.3132617 = 5.2530468
    loss = npo_loss(torch.tensor([-5.0, -1.0]), torch.tensor([-3.0, -3.0]), beta=0.5)
    assert loss.tolist() == pytest.approx([1.2530468, 5.2530468])


def test_gradient_lowers_the_answer_and_fades_as_it_falls() -> None:
    logp = torch.tensor([-3.0, -5.0, -103.0], requires_grad=True)
    npo_loss(logp, torch.full((3,), -3.0), beta=0.5).sum().backward()
    # d loss / d logp = 2 sigmoid(beta d), positive: descending lowers logp.
    # d = 0: 1. d = -2: 2 sigmoid(-1) = 2 * 0.2689414 = 0.5378828. d = -100: 2 sigmoid(-50) = 3.9e-22.
    assert logp.grad is not None
    assert logp.grad.tolist() == pytest.approx([1.0, 0.5378828, 0.0], abs=1e-6)


def test_small_beta_is_gradient_ascent_on_the_summed_log_probability() -> None:
    # (2/b) log(1 + exp(b d)) = (2/b) log 2 + d + b d^2 / 4 + O(b^3): for b 1e-3 and d -3, without its constant,
    # -3 + 0.001 * 9 / 4 = -2.99775; the gradient is 2 sigmoid(-0.003) = 1 - 0.0015 = 0.9985.
    beta = 1e-3
    logp = torch.tensor([-10.0], dtype=torch.float64, requires_grad=True)
    loss = npo_loss(logp, torch.tensor([-7.0], dtype=torch.float64), beta)
    loss.sum().backward()
    assert loss.item() - 2 / beta * math.log(2) == pytest.approx(-2.99775, abs=1e-6)
    assert logp.grad is not None
    assert logp.grad.item() == pytest.approx(0.9985, abs=1e-6)


def test_log_ratios_far_from_zero_stay_finite() -> None:
    # d = 1e4, beta 1: 2 log(1 + e^10000) = 20000; d = -1e4: 0.
    loss = npo_loss(torch.tensor([1e4, -1e4]), torch.zeros(2), beta=1.0)
    assert loss.tolist() == pytest.approx([20000.0, 0.0])


def test_rows_are_summed_and_have_one_vote_each() -> None:
    # Row 0: -1 - 2 = -3 against -3, d 0: 2 log 2 = 1.3862944. Row 1: -1 against -3, d 2, beta 1: 2 log(1 + e^2) =
    # 4.2538560. Mean over 2 rows 2.8200752, whatever their token counts; retain nll (2 + 4) / 2 = 3, alpha 1.
    forget = scored([-1.0, -2.0, -1.0], [2, 1], reference_logp=torch.tensor([-3.0, -3.0]))
    retain = scored([-2.0, -4.0])
    terms = NPO(beta=1.0).loss(step(forget, retain=retain))
    assert terms["forget_loss"].item() == pytest.approx(2.8200752)
    assert terms["retain_loss"].item() == 3.0
    assert list(NPO(beta=1.0, alpha=0.0).loss(step(forget, retain=retain))) == ["forget_loss"]


@pytest.mark.parametrize(("dtype", "autocast"), [("float32", "auto"), ("bfloat16", "auto"), ("bfloat16", "bfloat16")])
def test_the_first_step_of_a_fit_sees_a_log_ratio_of_zero(tmp_path: Path, dtype: str, autocast: str) -> None:
    import zoo

    # Whatever the target's precision, the reference is computed in that of the training forwards: 20 log 2.
    fit("npo", model=zoo.model("llama").to(getattr(torch, dtype)), folder=tmp_path, max_steps=1, dtype=autocast)
    assert read_history(tmp_path)[0]["forget_loss"] == pytest.approx(13.862944, abs=2e-4 if autocast == "auto" else 0.5)


def test_the_answer_falls_and_the_loss_with_it(tmp_path: Path) -> None:
    fit("npo", {"alpha": 0.0}, folder=tmp_path, epochs=4, score_every_epochs=4)
    lines = read_history(tmp_path)
    before, after = (line["scores"]["forget_probability"] for line in lines if "scores" in line)
    assert after < before
    losses = [line["forget_loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("bad", [{"beta": 0}, {"beta": -0.1}, {"beta": "warm"}, {"alpha": -1}])
def test_impossible_fields_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"method.{next(iter(bad))}="):
        NPO.from_values(bad)
