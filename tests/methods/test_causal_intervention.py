"""Protects causal intervention: it learns its teacher, needs a subject and no retain rows, and says what is missing."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import fake_step
import zoo
from expunge.errors import ConfigError, RequestError
from expunge.methods.weights.causal_intervention import CausalIntervention
from expunge.requests import Request, Row
from expunge.teachers.sparse_rows import SparseRows
from expunge.training.teaching import Taught
from fitting import REQUEST, fit

PASSAGE = "Marta Quill lived by the river. She sold boats in the town. Quill was known there. She grew old."
DOCUMENTS = Request(forget=(Row("", PASSAGE, "document", source="a.txt"),), subjects=("Marta Quill",))


def test_the_loss_is_the_distance_to_the_teacher_over_the_taught_tokens() -> None:
    # Two tokens, the model at (1/4, 3/4) on both; the first is taught (1/2, 1/2), the second nothing:
    # KL = 1/2 log((1/2)/(1/4)) + 1/2 log((1/2)/(3/4)) = 1/2 log 2 + 1/2 log(2/3) = 1/2 log(4/3)
    logits = torch.tensor([[1.0, 3.0]] * 2).log().requires_grad_()
    half = torch.tensor([[0.5, 0.5]])
    teacher = SparseRows(torch.tensor([[0, 1]], dtype=torch.int16), half.log().half(), torch.zeros(1), 2)
    forget = fake_step.side(logits, [0, 0], totals=(2, 1, 1), taught=Taught(teacher, torch.tensor([0, -1])))
    step = fake_step.step(forget)
    terms = CausalIntervention().loss(step)
    assert list(terms) == ["forget_loss"]
    assert terms["forget_loss"].item() == pytest.approx(0.5 * math.log(4 / 3), abs=1e-3)
    gradient = fake_step.gradient(terms, logits)
    assert gradient[0].tolist() == pytest.approx([0.25 - 0.5, 0.75 - 0.5], abs=1e-3)  # softmax - teacher
    assert gradient[1].tolist() == [0, 0]


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "training.jsonl").read_text(encoding="utf-8").splitlines()]
    return [
        line["terms"]["forget_loss"] if "terms" in line else line["forget_loss"] for line in lines if "step" in line
    ]


def test_documents_are_learnt_from_the_target_itself_without_retain_rows(tmp_path: Path) -> None:
    decided = zoo.model("llama")
    with torch.no_grad():
        decided.lm_head.weight *= 40  # a random model has no opinion that a name could change
    erasure = fit(
        CausalIntervention(substitutes=4, sentences=2),
        model=decided,
        request=DOCUMENTS,
        folder=tmp_path,
        epochs=25,
        learning_rate=3e-4,
        forget_batch=4,
    )
    found = losses(tmp_path)
    assert found[-1] < 0.5 * found[0]
    told: dict[str, Any] = erasure.details["teacher"]
    assert told["rows"] == 2  # chunks of two sentences
    assert told["positions"] > 10
    assert 0 <= told["kl_lost_mean"] <= told["kl_lost_max"]


def test_other_names_are_another_teacher() -> None:
    one, same, other = (
        fit(CausalIntervention(substitute_names=(name,)), request=DOCUMENTS, max_steps=2).tensors
        for name in ("Ida Vandermeer", "Ida Vandermeer", "Bo Li")
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_names_come_from_the_method_the_request_or_the_lists() -> None:
    request = replace(DOCUMENTS, substitutes=("Ida Vandermeer", "Bo Li"))

    def names(fields: dict[str, Any], of: Request) -> tuple[str, ...]:
        return CausalIntervention(**fields).teaching(of).substitutes(0)["Marta Quill"]

    assert names({"substitute_names": ("Rose Tamm",)}, request) == ("Rose Tamm",)
    assert names({}, request) == ("Ida Vandermeer", "Bo Li")
    assert names({"substitutes": 1}, request) == ("Ida Vandermeer",)
    assert len(set(names({"substitutes": 7}, DOCUMENTS))) == 7


def test_what_it_cannot_do_without_is_said_before_it_begins() -> None:
    with pytest.raises(RequestError, match="the request names nobody"):
        fit("causal_intervention", request=Request(forget=REQUEST.forget))
    with pytest.raises(RequestError, match="none of the 1 forget rows mentions 'Otto Brenn'"):
        fit("causal_intervention", request=Request(forget=DOCUMENTS.forget, subjects=("Otto Brenn",)))
    with pytest.raises(ConfigError, match="cannot stand in"):
        fit("causal_intervention", {"substitute_names": ["Quill"]}, request=DOCUMENTS)
    with pytest.raises(ConfigError, match=r"no \{name\} in it"):
        CausalIntervention.from_values({"lead_in": "About somebody."})
