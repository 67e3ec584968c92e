"""Protects packing: the same training as with padding, and refused where packed rows would see each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from expunge.data.encode import Example
from expunge.errors import ConfigError
from expunge.training.packing import pack
from fitting import fit

SGD: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.05, "weight_decay": 0, "max_steps": 3}


def test_positions_start_again_with_every_row() -> None:
    inputs, answers = pack([Example([5, 6, 7], 1, True, 3), Example([8, 9], 1, True, 2)])
    assert inputs["input_ids"].tolist() == [[5, 6, 7, 8, 9]]
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert answers.tolist() == [[False, True, True, False, True]]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "mixtral"])
@pytest.mark.parametrize("name", ["npo", "kl_min"])
def test_packed_training_is_padded_training(family: str, name: str) -> None:
    packed, padded = (fit(name, family=family, packing=packing, **SGD) for packing in (True, False))
    for tensor, value in padded.tensors.items():
        torch.testing.assert_close(packed.tensors[tensor], value, atol=2e-6, rtol=1e-4, msg=f"{family} {tensor}")


def test_a_layer_is_read_from_packed_rows_too() -> None:
    values = {"layer": 1, "alpha": 1.0}
    packed, padded = (fit("rmu", values, packing=packing, **SGD) for packing in (True, False))
    for tensor, value in padded.tensors.items():
        torch.testing.assert_close(packed.tensors[tensor], value, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("family", ["mpt", "bloom"])
def test_models_without_positions_are_refused(family: str) -> None:
    with pytest.raises(ConfigError, match=r"training\.packing: .* does not keep packed rows apart"):
        fit("npo", family=family, packing=True, max_steps=1)
