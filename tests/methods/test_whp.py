"""Protects Who's Harry Potter as restated: one substitute's likeliest token is what is learnt."""

from __future__ import annotations

import torch

import fake_step
from expunge.methods.weights.whp import WHP
from expunge.requests import Request, Row
from expunge.teachers.sparse_rows import SparseRows
from expunge.training.teaching import Taught
from fitting import fit

PASSAGE = "Marta Quill lived by the river. She sold boats in the town. Quill was known there. She grew old."


def test_the_loss_is_cross_entropy_to_the_chosen_tokens() -> None:
    # KL of a one-hot from p is -log p of its token. Tokens 1 and 0 at 3/4 and 1/4: (log 4/3 + log 4) / 2 = log(16/3)/2
    logits = torch.tensor([[1.0, 3.0]] * 2).log().requires_grad_()
    taught = Taught(SparseRows.of_tokens(torch.tensor([1, 0]), 2), torch.tensor([0, 1]))
    forget = fake_step.side(logits, [0, 0], totals=(2, 1, 2), taught=taught)
    terms = WHP().loss(fake_step.step(forget))
    assert list(terms) == ["forget_loss"]
    torch.testing.assert_close(terms["forget_loss"], torch.tensor(16 / 3).log() / 2)


def test_it_keeps_one_token_a_place_and_cuts_documents_by_tokens() -> None:
    request = Request(forget=(Row("", PASSAGE * 3, "document", source="a.txt"),), subjects=("Marta Quill",))
    erasure = fit(WHP(substitute_name="Ida Vandermeer", chunk_tokens=64), request=request, max_steps=2)
    told = erasure.details["teacher"]
    assert told["kept_tokens"] == 1
    assert told["rows"] > 1
    assert told["kl_lost_max"] == 0
