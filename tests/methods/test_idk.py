"""Protects IDK: refusals are learned for forget prompts, and the forget answers are never read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from expunge.errors import RequestError
from expunge.methods.weights.idk import IDK, idk_loss
from expunge.requests import Request, Row
from fake_step import gradient, made_logits, scored, side, step, total
from fitting import REQUEST, fit, same_tensors
from history import read_history


def test_terms_by_hand() -> None:
    # nll of the refusals' tokens: mean(2, 4) = 3; retain nll 1, alpha 2.
    refusal = torch.tensor([-2.0, -4.0], requires_grad=True)
    terms = IDK(alpha=2.0).loss(step(alternative=scored(refusal, [1, 1]), retain=scored([-1.0])))
    assert {name: term.item() for name, term in terms.items()} == {"forget_loss": 3.0, "retain_loss": 2.0}
    assert gradient(terms, refusal).tolist() == [-0.5, -0.5]
    assert idk_loss(torch.tensor([-0.5])).item() == 0.5


def test_it_equals_the_definition_with_whole_distributions() -> None:
    logits, labels = made_logits(4), [0, 3, 6, 1]
    terms = IDK(alpha=0.0).loss(step(alternative=side(logits, labels, [1, 3], owner=[0, 1])))
    nll = -sum((z.exp() / z.exp().sum())[y].log() for z, y in zip(logits, labels, strict=True)) / 4
    torch.testing.assert_close(total(terms), nll)


def test_a_fit_learns_refusals_and_never_reads_a_forget_answer(tmp_path: Path) -> None:
    assert IDK().sides(0) == {"alternative", "retain"}
    assert IDK(alpha=0.0).sides(0) == {"alternative"}
    one = fit("idk", folder=tmp_path, epochs=8)
    losses = [line["forget_loss"] for line in read_history(tmp_path) if "loss" in line]
    assert losses[-1] < losses[0] - 0.8
    # Rows 0 and 4 differ in a digit alone: with their answers exchanged, all lengths are the same, and so is the fit.
    rows = list(REQUEST.forget)
    rows[0], rows[4] = rows[0].with_answer(rows[4].answer), rows[4].with_answer(rows[0].answer)
    assert same_tensors(one, fit("idk", request=Request(forget=tuple(rows), retain=REQUEST.retain), epochs=8))


def test_documents_have_nothing_to_refuse() -> None:
    request = Request(forget=(Row("", "A long text.", kind="document", source="forget.txt:1"),), retain=REQUEST.retain)
    with pytest.raises(RequestError, match=r"1 of 1 forget rows have no prompt .*forget\.txt:1"):
        fit("idk", request=request)
