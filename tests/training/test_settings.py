"""Protects the one place of training defaults, and that impossible settings are refused by name."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from expunge.training.settings import TrainingSettings


def test_defaults_are_the_documented_ones() -> None:
    assert TrainingSettings().model_dump() == {
        "optimizer": "adamw_torch_fused",
        "learning_rate": 1e-5,
        "weight_decay": 0.01,
        "warmup_epochs": 1.0,
        "schedule": "linear",
        "max_grad_norm": 1.0,
        "epochs": 5.0,
        "max_steps": None,
        "forget_batch": 8,
        "retain_batch": 8,
        "accumulation": 4,
        "max_length": 512,
        "max_new_tokens": 200,
        "dtype": "auto",
        "seed": 0,
        "parameters": "full",
        "layers": (),
        "lora_rank": 8,
        "lora_alpha": 16.0,
        "lora_dropout": 0.0,
        "gradient_checkpointing": False,
        "packing": False,
        "sharding": "none",
        "compile": False,
        "reference": "cached",
        "reference_cache": None,
        "checkpoint_every": None,
        "score_every_steps": None,
        "score_every_epochs": None,
        "score_rows": 40,
    }


def test_the_learning_rate_follows_what_is_trained_unless_given() -> None:
    assert TrainingSettings(parameters="lora").rate == 1e-4
    assert TrainingSettings(parameters="lora", learning_rate=3e-4).rate == 3e-4
    assert TrainingSettings(parameters="full", learning_rate=None).rate == 1e-5


def test_one_pattern_stands_for_a_list_of_one() -> None:
    assert TrainingSettings(layers="*.mlp.*").layers == ("*.mlp.*",)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "bad",
    [
        {"learning_rate": 0},
        {"learning_rate": float("inf")},
        {"weight_decay": -1},
        {"epochs": 0},
        {"epochs": float("nan")},
        {"max_steps": 0},
        {"forget_batch": 0},
        {"accumulation": 0},
        {"max_length": 1},
        {"dtype": "float16"},
        {"seed": -1},
        {"parameters": "qlora"},
        {"lora_dropout": 1},
        {"schedule": "exponential"},
        {"epoch": 3},
    ],
)
def test_impossible_settings_are_refused_by_name(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        TrainingSettings(**bad)
    assert next(iter(bad)) in str(caught.value)


def test_scores_have_one_rhythm() -> None:
    with pytest.raises(ValidationError, match="score_every_steps or score_every_epochs, not both"):
        TrainingSettings(score_every_steps=2, score_every_epochs=1)


def test_settings_are_read_without_torch() -> None:
    code = "import expunge.training.settings, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
