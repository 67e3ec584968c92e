"""Protects plain fine-tuning: retain answers alone are read and go up, weighted by alpha."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from expunge.errors import ConfigError, RequestError
from expunge.methods.weights.finetune import Finetune, finetune_loss
from expunge.requests import Request
from fake_step import scored, step
from fitting import REQUEST, fit
from history import read_history


def test_loss_is_the_nll_of_the_retain_tokens() -> None:
    # alpha 2 * mean(1, 3, 5) = 6; descending raises each logp: d/d logp = -2/3.
    logps = torch.tensor([-1.0, -3.0, -5.0], requires_grad=True)
    terms = Finetune(alpha=2.0).loss(step(retain=scored(logps, [2, 1])))
    assert list(terms) == ["retain_loss"]
    assert terms["retain_loss"].item() == pytest.approx(6.0)
    terms["retain_loss"].backward()
    assert logps.grad is not None
    assert logps.grad.tolist() == pytest.approx([-2 / 3] * 3)
    assert finetune_loss(torch.tensor([-0.5])).item() == 0.5


def test_it_runs_as_long_as_the_others_but_never_reads_a_forget_row(tmp_path: Path) -> None:
    seen: list[str] = []
    fit("finetune", folder=tmp_path, progress=lambda done, total, what: seen.append(f"{what} {done}/{total}"))
    assert seen[-1] == "training 6/6"  # 2 epochs of 6 forget rows, 2 a step
    assert not any(text.startswith("reference") for text in seen)
    assert all("forget_loss" not in line for line in read_history(tmp_path))
    # The same fit with other forget rows is the same fit.
    others = Request(forget=tuple(row.with_answer("Nowhere at all") for row in REQUEST.forget), retain=REQUEST.retain)
    from fitting import same_tensors

    assert same_tensors(fit("finetune"), fit("finetune", request=others))


def test_it_raises_the_retain_answers(tmp_path: Path) -> None:
    fit("finetune", folder=tmp_path, epochs=6, score_every_epochs=6)
    before, after = (line["scores"]["retain_probability"] for line in read_history(tmp_path) if "scores" in line)
    assert after > 2 * before


def test_it_needs_retain_rows_and_a_positive_weight() -> None:
    with pytest.raises(RequestError, match="--retain FILE"):
        fit("finetune", request=Request(forget=REQUEST.forget))
    with pytest.raises(ConfigError, match=r"method.alpha=0"):
        Finetune.from_values({"alpha": 0})
