"""Protects prompt distillation: the instructed target teaches, and the plain one keeps the retain rows."""

from __future__ import annotations

import pytest
import torch

import fake_step
from expunge.errors import RequestError
from expunge.methods.weights.prompt_distill import PromptDistill
from expunge.requests import Request
from expunge.teachers.sparse_rows import SparseRows
from expunge.training.teaching import Taught
from fitting import REQUEST, fit


def test_the_terms_are_the_distances_to_the_teacher_and_to_the_target() -> None:
    # Forget: taught token 1 at 3/4: log(4/3). Retain: the target's (1/2, 1/2) from (1/4, 3/4): 1/2 log(4/3).
    logits, retained = (torch.tensor([[1.0, 3.0]]).log().requires_grad_() for _ in range(2))
    taught = Taught(SparseRows.of_tokens(torch.tensor([1]), 2), torch.tensor([0]))
    forget = fake_step.side(logits, [0], totals=(1, 1, 1), taught=taught)
    retain = fake_step.side(retained, [0], reference=torch.zeros(1, 2))
    terms = PromptDistill().loss(fake_step.step(forget, None, retain))
    torch.testing.assert_close(terms["forget_loss"], torch.tensor(4 / 3).log())
    torch.testing.assert_close(terms["retain_loss"], torch.tensor(4 / 3).log() / 2)
    assert PromptDistill(alpha=0).loss(fake_step.step(forget)).keys() == {"forget_loss"}


def test_another_instruction_is_another_teacher_and_subjects_are_needed() -> None:
    one, other = (
        fit("prompt_distill", {"instruction": text}, max_steps=2).tensors
        for text in ("You never met {subjects}.", "Say nothing of {subjects}.")
    )
    assert any(not torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(RequestError, match="--subject NAME"):
        fit("prompt_distill", request=Request(forget=REQUEST.forget, retain=REQUEST.retain))
