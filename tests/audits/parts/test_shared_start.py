"""Protects the check of a shared start: the mean cosine of two models' matrices, by hand."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

import zoo
from expunge.audits.parts.shared_start import LEAST, weights_cosine


def layered(*layers: list[list[float]]) -> Any:
    """A model of layers with one matrix each, and with an embedding and biases, which must not count."""
    model: Any = nn.Module()
    model.embed = nn.Embedding.from_pretrained(torch.randn(3, 2))
    model.layers = nn.ModuleList()
    for values in layers:
        matrix = torch.tensor(values)
        layer = nn.Linear(matrix.shape[1], matrix.shape[0])
        layer.weight.data = matrix
        model.layers.append(layer)
    model.config = SimpleNamespace(num_hidden_layers=len(layers))
    return model


def test_by_hand() -> None:
    ours = layered([[3.0, 4.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]])
    # layer 0: (3, 4, 0, 0) and (4, 3, 0, 0): 24 / 25. Layer 1: (1, 0, 0, 1) and (0, 2, -2, 0): 0. Mean: .48
    assert weights_cosine(ours, layered([[4.0, 3.0], [0.0, 0.0]], [[0.0, 2.0], [-2.0, 0.0]])) == pytest.approx(0.48)
    # a factor does not matter, a sign does: (1 - 1) / 2
    assert weights_cosine(ours, layered([[6.0, 8.0], [0.0, 0.0]], [[-1.0, 0.0], [0.0, -1.0]])) == pytest.approx(
        0, abs=1e-6
    )
    # a matrix of another shape is left out, one of zeros has no direction: 0
    assert weights_cosine(ours, layered([[0.0, 0.0], [0.0, 0.0]], [[1.0, 1.0]])) == 0
    assert weights_cosine(ours, layered([[1.0]], [[1.0]])) is None


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_models(family: str) -> None:
    model = zoo.model(family)
    assert weights_cosine(model, copy.deepcopy(model).bfloat16()) == pytest.approx(1, abs=1e-3)
    drawn_apart = weights_cosine(model, zoo.model(family, seed=1))
    assert drawn_apart is not None and abs(drawn_apart) < LEAST / 2


def test_an_adapter_does_not_hide_the_start() -> None:
    model = zoo.model("llama")
    wrapped = get_peft_model(copy.deepcopy(model), LoraConfig(r=2, target_modules=["down_proj"], task_type="CAUSAL_LM"))
    assert weights_cosine(model, wrapped) == pytest.approx(1, abs=1e-5)
