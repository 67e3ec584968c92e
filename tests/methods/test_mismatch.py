"""Protects mismatch: the random answer is learned, it is a retain row's, and only its own rows are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.errors import ConfigError, RequestError
from expunge.methods.weights.mismatch import Mismatch, mismatch_loss
from expunge.requests import Request
from fake_step import gradient, made_logits, scored, side, step, total
from fitting import REQUEST, fit
from history import read_history


def test_terms_by_hand() -> None:
    # nll of the random answers' tokens: mean(1, 3, 5) = 3; retain nll 2 times alpha 0.5.
    random = torch.tensor([-1.0, -3.0, -5.0], requires_grad=True)
    terms = Mismatch(alpha=0.5).loss(step(alternative=scored(random, [1, 2]), retain=scored([-2.0])))
    assert {name: term.item() for name, term in terms.items()} == {"forget_loss": 3.0, "retain_loss": 1.0}
    assert gradient(terms, random).tolist() == pytest.approx([-1 / 3] * 3)  # descending raises each of them
    assert mismatch_loss(torch.tensor([-0.5])).item() == 0.5


def test_it_equals_the_definition_with_whole_distributions() -> None:
    logits, labels = made_logits(4), [0, 3, 6, 1]
    terms = Mismatch(alpha=0.0).loss(step(alternative=side(logits, labels, [1, 3], owner=[0, 1])))
    nll = -sum((z.exp() / z.exp().sum())[y].log() for z, y in zip(logits, labels, strict=True)) / 4
    torch.testing.assert_close(total(terms), nll)


def test_what_it_reads() -> None:
    assert Mismatch().sides(0) == {"alternative", "retain"}
    assert Mismatch(alpha=0.0).sides(0) == {"alternative"}
    assert Mismatch(alpha=0.0).uses_retain  # the answers come from there
    assert not Mismatch(alpha=0.0, retain="kl").reference_logits
    assert Mismatch(retain="kl").reference_logits == {"retain"}
    with pytest.raises(ConfigError, match=r"method\.retain="):
        Mismatch.from_values({"retain": "mse"})


def test_the_answers_are_drawn_from_the_retain_rows_once_a_row() -> None:
    class Settings:
        seed = 3

    class Context:
        settings = Settings

    context: Any = Context
    drawn = Mismatch().alternatives(REQUEST.forget, REQUEST.retain, context=context)
    known = {row.answer for row in REQUEST.retain}
    for row, (other,) in zip(REQUEST.forget, drawn, strict=True):
        assert other == row.with_answer(other.answer)
        assert other.answer in known
        assert other.answer != row.answer
    assert drawn == Mismatch().alternatives(REQUEST.forget, REQUEST.retain, context=context)


def test_a_fit_learns_the_random_answers(tmp_path: Path) -> None:
    fit("mismatch", {"alpha": 0.0}, folder=tmp_path, epochs=8)
    losses = [line["forget_loss"] for line in read_history(tmp_path) if "loss" in line]
    assert losses[-1] < 0.8 * losses[0]


def test_without_retain_rows_there_is_nothing_to_draw_from() -> None:
    with pytest.raises(RequestError):
        fit("mismatch", {"alpha": 0.0}, request=Request(forget=REQUEST.forget))
