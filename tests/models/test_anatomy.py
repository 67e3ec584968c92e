"""Protects finding decoder layers and MLP down projections by structure, in every family, with and without PEFT."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import zoo
from expunge.errors import ModelError
from expunge.models.anatomy import decoder_layers, down_projections

every_family = pytest.mark.parametrize("family", zoo.FAMILIES)

# What follows "<layers>.1." in the names; families that are not here call it mlp.down_proj.weight.
DOWN = {
    "phi": ["mlp.fc2.weight"],
    "gpt2": ["mlp.c_proj.weight"],  # attn.c_proj is attention's
    "gptj": ["mlp.fc_out.weight"],
    "gpt_neox": ["mlp.dense_4h_to_h.weight"],
    "opt": ["fc2.weight"],
    "mpt": ["ffn.down_proj.weight"],
    "falcon": ["mlp.dense_4h_to_h.weight"],
    "bloom": ["mlp.dense_4h_to_h.weight"],
    "starcoder2": ["mlp.c_proj.weight"],
    "deepseek": ["mlp.experts.down_proj", "mlp.shared_experts.down_proj.weight"],
    "mixtral": ["mlp.experts.down_proj"],
    "qwen2_moe": ["mlp.experts.down_proj", "mlp.shared_expert.down_proj.weight"],
}
LAYERS = {
    "gpt2": "transformer.h",
    "gptj": "transformer.h",
    "gpt_neox": "gpt_neox.layers",
    "opt": "model.decoder.layers",
    "mpt": "transformer.blocks",
    "falcon": "transformer.h",
    "bloom": "transformer.h",
}


@every_family
def test_layers_and_down_projections_of_a_family(family: str) -> None:
    model = zoo.model(family, num_hidden_layers=3)
    prefix = LAYERS.get(family, "model.layers")
    layers = decoder_layers(model)
    assert [name for name, _ in layers] == [f"{prefix}.{number}" for number in range(3)]
    assert all(model.get_submodule(name) is layer for name, layer in layers)

    wanted = DOWN.get(family, ["mlp.down_proj.weight"])
    assert down_projections(model, [1]) == [f"{prefix}.1.{name}" for name in wanted]
    both = down_projections(model, range(1, 3))
    assert both == [f"{prefix}.{number}.{name}" for number in (1, 2) for name in wanted]
    # It writes to the residual stream: one of its sides is the hidden size.
    parameters = dict(model.named_parameters())
    assert all(64 in parameters[name].shape[-2:] for name in both)


@every_family
def test_layers_are_called_in_this_order(family: str) -> None:
    model: Any = zoo.model(family)
    called: list[str] = []
    for name, layer in decoder_layers(model):
        layer.register_forward_hook(lambda *_, name=name: called.append(name))
    with torch.no_grad():
        model(torch.tensor([[5, 6, 7]]), use_cache=False)
    assert called == [name for name, _ in decoder_layers(model)]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_peft_wrapper_changes_the_names_only(family: str) -> None:
    from peft import LoraConfig, get_peft_model

    plain = zoo.model(family)
    inner = decoder_layers(plain)
    down = down_projections(plain, [0, 1])
    target = down[0].split(".")[-2]
    wrapped = get_peft_model(plain, LoraConfig(target_modules=[target], task_type="CAUSAL_LM"))
    layers = decoder_layers(wrapped)
    assert [name for name, _ in layers] == [f"base_model.model.{name}" for name, _ in inner]
    assert [layer for _, layer in layers] == [layer for _, layer in inner]
    assert down_projections(wrapped, [0, 1]) == [
        "base_model.model." + name.replace(".weight", ".base_layer.weight") for name in down
    ]


class Toy(nn.Module):
    """Layers of ``sizes`` experts each, and whatever else is given."""

    def __init__(self, layers: int, experts: int, stated: int | None = None, **others: nn.Module) -> None:
        super().__init__()

        class Layer(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.attention = nn.ModuleDict({"w2": nn.Linear(2, 2)})
                self.experts = nn.ModuleList(nn.ModuleDict({"w2": nn.Linear(3, 2)}) for _ in range(experts))

        self.layers = nn.ModuleList(Layer() for _ in range(layers))
        for name, module in others.items():
            self.add_module(name, module)
        if stated is not None:
            self.config = SimpleNamespace(num_hidden_layers=stated)


def linears(count: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(2, 2) for _ in range(count))


def test_a_layer_with_more_experts_than_there_are_layers() -> None:
    model = Toy(layers=2, experts=5)
    assert [name for name, _ in decoder_layers(model)] == ["layers.0", "layers.1"]
    assert down_projections(model, [0]) == [f"layers.0.experts.{number}.w2.weight" for number in range(5)]


def test_other_lists_are_left_aside() -> None:
    norms = nn.ModuleList(nn.Identity() for _ in range(9))  # nothing in them to train
    assert len(decoder_layers(Toy(3, 1, norms=norms, extra=linears(2)))) == 3
    # A longer tower of another kind: the configuration says which list is meant.
    assert next(name for name, _ in decoder_layers(Toy(3, 1, stated=3, vision=linears(6)))) == "layers.0"


def test_what_cannot_be_told_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"has 2 lists of 3 layers \(layers, encoder\)"):
        decoder_layers(Toy(3, 1, encoder=linears(3)))
    with pytest.raises(ModelError, match="Linear has no list of layers"):
        decoder_layers(nn.Linear(2, 2))
    with pytest.raises(ModelError, match="LlamaForCausalLM has no layer 2: it has layers 0 to 1"):
        down_projections(zoo.model("llama"), [1, 2])
    with pytest.raises(ModelError, match=r"layer 0 of Sequential: it has weight, and none of these is called c_proj"):
        down_projections(nn.Sequential(linears(2)), [0])
