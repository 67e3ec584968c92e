"""Protects running a model in two halves: the same logits, and nothing left behind, in every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutput

import zoo
from expunge.errors import ModelError
from expunge.models.anatomy import decoder_layers
from expunge.models.halves import Halves

IDS = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]])
every_family = pytest.mark.parametrize("family", zoo.FAMILIES)


@every_family
@torch.no_grad()
def test_states_and_head_make_the_models_own_logits(family: str) -> None:
    model = zoo.model(family)
    full = model(input_ids=IDS).logits.float()
    halves = Halves(model)
    states = halves.states(input_ids=IDS)
    logits = halves.logits(states.flatten(0, 1)).view_as(full)
    torch.testing.assert_close(logits, full, atol=1e-6, rtol=0)
    assert halves.vocabulary == full.shape[-1]
    assert torch.equal(model(input_ids=IDS).logits.float(), full)
    assert not any("forward" in module.__dict__ or module._forward_hooks for module in model.modules())


class ScaledLlama(LlamaForCausalLM):
    """Scales the states on their way to the head, as MiniCPM does, and the logits, as Granite does."""

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **_: Any) -> CausalLMOutput:
        states = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        return CausalLMOutput(logits=self.lm_head(states / 4) * 3)


@torch.no_grad()
def test_what_lies_between_body_and_head_is_done_once() -> None:
    model = ScaledLlama(zoo.model("llama").config).eval()
    full = model(input_ids=IDS).logits
    halves = Halves(model)
    logits = halves.logits(halves.states(input_ids=IDS).flatten(0, 1)).view_as(full)
    torch.testing.assert_close(logits, full, atol=1e-6, rtol=0)


def test_a_model_without_a_body_of_its_own_is_an_error() -> None:
    config = BertConfig(
        vocab_size=32,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        is_decoder=True,
    )
    with pytest.raises(ModelError, match="last_hidden_state"):
        Halves(AutoModelForCausalLM.from_config(config)).states(input_ids=IDS)


@every_family
@torch.no_grad()
def test_a_layers_output_without_the_layers_above(family: str) -> None:
    model = zoo.model(family)
    layers = [module for _, module in decoder_layers(model)]
    expected = model(input_ids=IDS, output_hidden_states=True).hidden_states[1]
    calls: list[int] = []
    handle = layers[1].register_forward_pre_hook(lambda *_: calls.append(1))
    own = type(layers[1]).forward
    found = Halves(model).layer_states(layers, 0, input_ids=IDS)
    handle.remove()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert calls == [1]  # called, and only handing on: its own forward is back
    assert "forward" not in layers[1].__dict__
    assert type(layers[1]).forward is own


def test_outside_parameters_are_the_heads_a_tied_one_too() -> None:
    tied, untied = zoo.model("llama3"), zoo.model("phi")
    assert [p is tied.lm_head.weight for p in Halves(tied).outside()] == [True]
    assert len(Halves(untied).outside()) == 2  # weight and bias


def test_logits_before_states_and_models_without_a_head_are_errors() -> None:
    halves = Halves(zoo.model("llama"))
    with pytest.raises(ModelError, match="before"):
        halves.logits(torch.zeros(1, 64))
    with pytest.raises(ModelError, match="no output embeddings"):
        Halves(zoo.model("llama").model)
