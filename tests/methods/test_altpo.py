"""Protects AltPO: the target's own wrong answers are preferred, one a visit, and made once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import zoo
from expunge.data.template import Template
from expunge.errors import ConfigError
from expunge.methods.weights.altpo import INSTRUCTION, AltPO
from expunge.training.alternatives import Context
from expunge.training.settings import TrainingSettings
from fake_step import made_logits, side, step, total
from fitting import REQUEST, fit, same_tensors
from history import read_history


def test_its_loss_is_dpos() -> None:
    from expunge.methods.weights.dpo import DPO

    forget = side(made_logits(3, seed=1), [0, 1, 2], [2, 1], reference=made_logits(3, seed=2).detach())
    other = side(made_logits(4, seed=3), [3, 4, 5, 6], [1, 3], reference=made_logits(4, seed=4).detach(), owner=[0, 1])
    retain = side(made_logits(2, seed=5), [0, 6])
    ours, theirs = (method.loss(step(forget, other, retain)) for method in (AltPO(beta=0.3), DPO(beta=0.3)))
    assert ours.keys() == theirs.keys()
    assert total(ours).item() == total(theirs).item()
    assert AltPO().reference_logps == {"forget", "alternative"}
    assert AltPO.alternatives_in_turn


def test_a_visit_uses_one_alternative_in_turn() -> None:
    from expunge.data.encode import Example
    from expunge.training.rows import Rows
    from expunge.training.schedule import Micro

    forget = [Example([1, 2], 1, True, 2), Example([1, 3], 1, True, 2)]
    others = [[Example([1, 10 * row + turn], 1, True, 2) for turn in range(3)] for row in range(2)]
    held = Rows(forget, forget, others)
    for visit, token in enumerate([0, 1, 2, 0]):
        examples, layout = held.batch(Micro((0, 1), (0,), (visit, visit + 1)), AltPO())
        assert layout.counts == (2, 2, 1)
        assert layout.owner == (0, 1)
        assert [example.input_ids[1] for example in examples[2:4]] == [token, 10 + (visit + 1) % 3]


def test_as_many_answers_as_asked_for() -> None:
    tokenizer = zoo.tokenizer("llama")
    settings = TrainingSettings(max_new_tokens=6)
    context: Any = Context(zoo.model("llama"), tokenizer, Template.of(tokenizer), settings, progress=lambda *_: None)
    drawn = AltPO(answers=3).alternatives(REQUEST.forget, REQUEST.retain, context=context)
    assert [len(some) for some in drawn] == [3] * 6


def test_a_fit_starts_from_log_ratios_of_zero_and_learns(tmp_path: Path) -> None:
    given: dict[str, Any] = {"epochs": 8, "max_new_tokens": 4}
    one = fit("altpo", {"alpha": 0.0, "answers": 2}, folder=tmp_path, **given)
    losses = [line["forget_loss"] for line in read_history(tmp_path) if "loss" in line]
    assert losses[0] == pytest.approx(20 * math.log(2), abs=2e-4)
    assert losses[-1] < losses[0] - 0.5
    assert same_tensors(one, fit("altpo", {"alpha": 0.0, "answers": 2}, **given))


def test_answers_are_kept_where_runs_share_what_the_target_says(tmp_path: Path) -> None:
    fit("altpo", {"answers": 2}, max_steps=1, max_new_tokens=4, reference_cache=str(tmp_path))
    assert len(list(tmp_path.glob("alternatives-*.json"))) == 1


def test_impossible_fields_are_refused() -> None:
    assert {"{question}", "{answer}"} <= set(INSTRUCTION.split())
    with pytest.raises(ConfigError, match=r"method\.answers=0"):
        AltPO.from_values({"answers": 0})
    with pytest.raises(ConfigError, match=r"no \{question\} in it"):
        AltPO.from_values({"instruction": "Say something else."})
    assert AltPO(instruction="").instruction == ""
