"""Protects the logit lens: the last layer is the model itself, an inner one what its norm and head make of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import zoo
from expunge.audits.parts.layer_readings import check_layers, layer_readings
from expunge.data.batches import pad_id
from expunge.data.encode import encode_all
from expunge.data.template import Template
from expunge.errors import ModelError
from expunge.requests import Row

ROWS = [Row("Who was born?", "The author of the book."), Row("What is the name of it, then?", "No.")]


@pytest.mark.parametrize("family", zoo.FAMILIES)
@torch.no_grad()
def test_the_last_layer_is_the_model(family: str) -> None:
    model, tokenizer = zoo.model(family), zoo.tokenizer(family)
    examples = encode_all(tokenizer, Template.of(tokenizer), ROWS, max_length=200)
    found = layer_readings(model, examples, pad_id(tokenizer))
    assert found.logps.shape == found.first.shape == found.ranks.shape == (2, 2)
    for place, example in enumerate(examples):
        ids = torch.tensor([example.input_ids])
        logits = model(input_ids=ids).logits[0, example.answer_start - 1 : -1].double()
        wanted = ids[0, example.answer_start :]
        logps = logits.log_softmax(-1)[torch.arange(len(wanted)), wanted]
        # the end token, which every answer has, is no part of the mean
        assert found.logps[-1, place] == pytest.approx(logps[:-1].mean().item(), abs=2e-5)
        assert found.first[-1, place] == pytest.approx(logps[0].exp().item(), rel=1e-4)
        assert found.ranks[-1, place] == 1 + (logits[0] > logits[0, wanted[0]]).sum().item()
    assert not np.allclose(found.logps[0], found.logps[1])
    np.testing.assert_array_equal(found.first_rows(1).logps, found.logps[:, :1])
    check_layers(model, examples, pad_id(tokenizer))
    assert not any("forward" in module.__dict__ or module._forward_hooks for module in model.modules())


@torch.no_grad()
def test_an_inner_layer_goes_through_the_models_norm_and_head() -> None:
    model, tokenizer = zoo.model("llama"), zoo.tokenizer("llama")
    (example,) = encode_all(tokenizer, Template.of(tokenizer), ROWS[:1], max_length=200)
    found = layer_readings(model, [example], pad_id(tokenizer))
    ids = torch.tensor([example.input_ids])
    inner = model.model(input_ids=ids, output_hidden_states=True).hidden_states[1]  # type: ignore[operator]
    logits = model.lm_head(model.model.norm(inner))[0, example.answer_start - 1 : -1]  # type: ignore[operator, union-attr]
    wanted = ids[0, example.answer_start :]
    logps = logits.log_softmax(-1)[torch.arange(len(wanted)), wanted]
    assert found.logps[0, 0] == pytest.approx(logps[:-1].mean().item(), abs=2e-5)
    assert found.first[0, 0] == pytest.approx(logps[0].exp().item(), rel=1e-4)


def acting_across(model: Any) -> None:
    """What the first layer sees comes back after the last one: no layer's output holds it."""
    seen: list[torch.Tensor] = []
    model.model.layers[0].register_forward_hook(lambda _, __, output: seen.append(10 * output.flip(-1)))
    model.model.norm.register_forward_pre_hook(lambda _, given: (given[0] + seen.pop(),) if seen else None)


def test_what_acts_beyond_the_layers_is_noticed() -> None:
    model, tokenizer = zoo.model("llama"), zoo.tokenizer("llama")
    examples = encode_all(tokenizer, Template.of(tokenizer), ROWS, max_length=200)
    acting_across(model)
    for read in (layer_readings, check_layers):
        with pytest.raises(ModelError, match="logit_lens does not apply"):
            read(model, examples, pad_id(tokenizer))
