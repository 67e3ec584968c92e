"""Protects what is trained: patterns name it, updates add up in float32, every original comes back bit for bit."""

from __future__ import annotations

import pytest
import torch

import zoo
from expunge.errors import ConfigError, ModelError
from expunge.training.parameters import float32_copies, lora_values, select_parameters
from fitting import settings, snapshot


def test_patterns_choose_parameters_by_their_whole_name() -> None:
    model = zoo.model("llama")
    every = select_parameters(model, ())
    assert every == [name for name, _ in model.named_parameters()]
    assert select_parameters(model, ("*.layers.1.mlp.*",)) == [
        f"model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up", "down")
    ]


@pytest.mark.parametrize("patterns", [("*.layers.7.*",), ("*.layers.1.*", "*.mpl.*"), ("layers.1",)])
def test_a_pattern_without_a_parameter_is_an_error_that_shows_names(patterns: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        select_parameters(zoo.model("llama"), patterns)
    assert repr(patterns[-1]) in str(caught.value)
    assert "model.embed_tokens.weight" in str(caught.value)


def test_offloaded_parameters_are_refused() -> None:
    with torch.device("meta"):
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_config(zoo.model("llama").config)
    with pytest.raises(ModelError, match="are offloaded"):
        select_parameters(model, ())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama", "gpt2"])  # gpt2 ties its head to its embedding
def test_training_copies_are_float32_and_the_originals_come_back(family: str, dtype: torch.dtype) -> None:
    model = zoo.model(family).to(dtype)
    before = snapshot(model)
    name = next(name for name, _ in model.named_parameters() if "1" in name)
    with pytest.raises(RuntimeError, match="inside"), float32_copies(model, [name]) as originals:
        parameters = dict(model.named_parameters())
        assert {n for n, p in parameters.items() if p.requires_grad} == {name}
        assert {p.dtype for p in parameters.values()} == {torch.float32}
        assert list(originals) == [name]
        assert originals[name].dtype == dtype
        for parameter in parameters.values():
            parameter.data.add_(1.0)
        raise RuntimeError("inside")
    after = snapshot(model)
    if dtype == torch.float32:
        # Frozen float32 parameters are not copied, so what the test added to them stays; the trained one is back.
        assert after["parameters"] == before["parameters"]
        assert torch.equal(dict(model.named_parameters())[name], dict(zoo.model(family).named_parameters())[name])
    else:
        assert after == before


def test_under_autocast_frozen_parameters_stay_narrow() -> None:
    model = zoo.model("llama").to(torch.bfloat16)
    chosen = select_parameters(model, ("*.layers.1.*",))
    with float32_copies(model, chosen, autocast=True):
        wide = {name for name, p in model.named_parameters() if p.dtype == torch.float32}
    assert wide == set(chosen)


def test_double_precision_is_not_narrowed() -> None:
    model = zoo.model("llama").double()
    with float32_copies(model, select_parameters(model, ())):
        assert {p.dtype for p in model.parameters()} == {torch.float64}


def test_gradients_that_were_there_are_there_again() -> None:
    model = zoo.model("llama").to(torch.bfloat16)
    weight = model.get_input_embeddings().weight
    weight.grad = kept = torch.ones_like(weight)
    with float32_copies(model, select_parameters(model, ())):
        assert weight.grad is None
        weight.grad = torch.zeros_like(weight)
    assert weight.grad is kept


def test_lora_sits_on_every_linear_layer_of_the_body() -> None:
    # 7 linear layers (q k v o, gate up down) in each of 2 blocks; the head is left alone.
    values = lora_values(zoo.model("llama"), settings(parameters="lora"))
    assert len(values["target_modules"]) == 14
    assert not any("lm_head" in name for name in values["target_modules"])
    assert (values["peft_type"], values["r"], values["lora_alpha"], values["fan_in_fan_out"]) == (
        "LORA",
        8,
        16.0,
        False,
    )


def test_lora_takes_patterns_of_parameters_or_modules() -> None:
    model = zoo.model("llama")
    for pattern in ("*.1.mlp.down_proj", "*.1.mlp.down_proj.weight"):
        assert lora_values(model, settings(parameters="lora"), (pattern,))["target_modules"] == [
            "model.layers.1.mlp.down_proj"
        ]


def test_lora_knows_transposed_layers() -> None:
    assert lora_values(zoo.model("gpt2"), settings(parameters="lora"))["fan_in_fan_out"] is True
