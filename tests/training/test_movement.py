"""Protects the measure of how far training moved weights, and that next to nothing is no change."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from expunge.errors import TrainingError
from expunge.training.movement import check_moved, shares_added, shares_changed, steps_in_words


def test_shares_by_hand() -> None:
    before = {
        "a": torch.tensor([1.0, -4.0]),
        "zero": torch.zeros(2),
        "kept": torch.tensor([8.0]),
        "none": torch.ones(0),
    }
    after = {"a": torch.tensor([1.5, -3.0]), "zero": torch.tensor([0.0, -2.0])}
    # |-3 - -4| = 1 of 4; 2 of the 8 that is the largest anywhere
    assert shares_changed(before, after) == {"a": 0.25, "zero": 0.25}


def test_the_smallest_step_of_bfloat16_counts() -> None:
    before = {"a": torch.tensor([256.0, 1.0], dtype=torch.bfloat16)}
    after = {"a": torch.tensor([256.0, 1.0078125], dtype=torch.bfloat16)}  # one step of 2**-7 further
    assert shares_changed(before, after) == {"a": 2**-7 / 256}


def test_an_adapter_counts_by_its_product() -> None:
    model = nn.ModuleDict({"one": nn.Linear(2, 2, bias=False), "zero": nn.Linear(2, 2, bias=False)})
    with torch.no_grad():
        model["one"].weight.copy_(torch.tensor([[1.0, -5.0], [2.0, 0.0]]))  # type: ignore[union-attr, operator]
        model["zero"].weight.zero_()  # type: ignore[union-attr, operator]
    tensors = {
        "base_model.model.one.lora_A.weight": torch.tensor([[1.0, 2.0]]),
        "base_model.model.one.lora_B.weight": torch.tensor([[3.0], [-1.0]]),
        "base_model.model.zero.lora_A.weight": torch.tensor([[1.0, 2.0]]),
        "base_model.model.zero.lora_B.weight": torch.zeros(2, 1),
    }
    # B A = [[3, 6], [-1, -2]], times .5 at most 3, of 5
    assert shares_added(model, tensors, 0.5) == pytest.approx({"one": 0.6, "zero": 0.0})


def test_nothing_to_speak_of_is_an_error() -> None:
    with pytest.raises(TrainingError, match=r"^npo: training changed no weight in 1 optimizer step\. Rounded\. Raise"):
        check_moved("npo", {}, trained=3, steps=1, because=" Rounded.")
    with pytest.raises(
        TrainingError, match=r"no weight by more than 9e-08 of its tensor's largest value in 2 optimizer"
    ):
        check_moved("npo", {"a": 9e-8, "b": 1e-30}, trained=2, steps=2)


def test_few_changed_tensors_are_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "expunge"):
        check_moved("npo", {"a": 2e-4, "b": 1e-3, "c": 1e-9}, trained=4, steps=2)  # 2 of 4 are no fewer than half
        assert not caplog.text
        check_moved("npo", {"a": 2e-4, "b": 1e-3, "c": 1e-9}, trained=5, steps=2)
    assert "only 2 of 5 trained tensors changed, by at most 0.001 of their largest value." in caplog.text


def test_steps_have_a_plural() -> None:
    assert [steps_in_words(count) for count in (1, 2)] == ["1 optimizer step", "2 optimizer steps"]
