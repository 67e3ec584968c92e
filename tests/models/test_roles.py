"""Protects where activations are read: each role in every family, by its definition, and experts one by one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import zoo
from expunge.errors import ConfigError, ModelError, UnknownNameError
from expunge.models.anatomy import decoder_layers
from expunge.models.roles import ROLES, Site, find_sites
from expunge.models.taps import tapped
from fitting import snapshot
from passing import IDS, close, passed

every_family = pytest.mark.parametrize("family", zoo.FAMILIES)
MIXTURES = ("deepseek", "mixtral", "qwen2_moe")
DENSE = tuple(family for family in zoo.FAMILIES if family not in MIXTURES)

tanh_gelu = partial(functional.gelu, approximate="tanh")
# What follows "<layers>.N." in a dense family: MLP, its first matrix, the one beside it, activation, down projection.
Parts = tuple[str, str, str | None, Callable[[Tensor], Tensor], str]
GATED: Parts = ("mlp", "mlp.gate_proj", "mlp.up_proj", functional.silu, "mlp.down_proj")
MLP: dict[str, Parts] = {
    **dict.fromkeys(("gemma", "gemma2", "gemma3"), (*GATED[:3], tanh_gelu, GATED[4])),
    "phi": ("mlp", "mlp.fc1", None, tanh_gelu, "mlp.fc2"),
    "phi3": ("mlp", "mlp.gate_up_proj", "fused", functional.silu, "mlp.down_proj"),
    "gpt2": ("mlp", "mlp.c_fc", None, tanh_gelu, "mlp.c_proj"),
    "gptj": ("mlp", "mlp.fc_in", None, tanh_gelu, "mlp.fc_out"),
    "gpt_neox": ("mlp", "mlp.dense_h_to_4h", None, functional.gelu, "mlp.dense_4h_to_h"),
    "opt": ("", "fc1", None, functional.relu, "fc2"),
    "mpt": ("ffn", "ffn.up_proj", None, functional.gelu, "ffn.down_proj"),
    "falcon": ("mlp", "mlp.dense_h_to_4h", None, functional.gelu, "mlp.dense_4h_to_h"),
    "bloom": ("mlp", "mlp.dense_h_to_4h", None, tanh_gelu, "mlp.dense_4h_to_h"),
    "starcoder2": ("mlp", "mlp.c_fc", None, tanh_gelu, "mlp.c_proj"),
}
ATTENTION = {
    "phi": "self_attn.dense",
    "gpt2": "attn.c_proj",
    "gptj": "attn.out_proj",
    "gpt_neox": "attention.dense",
    "opt": "self_attn.out_proj",
    "mpt": "attn.out_proj",
    "falcon": "self_attention.dense",
    "bloom": "self_attention.dense",
}
FINAL_NORM = {
    "phi": "model.final_layernorm",
    "gpt2": "transformer.ln_f",
    "gptj": "transformer.ln_f",
    "gpt_neox": "gpt_neox.final_layer_norm",
    "opt": "model.decoder.final_layer_norm",
    "mpt": "transformer.norm_f",
    "falcon": "transformer.ln_f",
    "bloom": "transformer.ln_f",
}


def captured(model: Any, sites: list[Site]) -> dict[str, Tensor]:
    """[B * S, W] what each site of no expert sees in one forward; it is called once."""
    found: dict[str, list[Tensor]] = defaultdict(list)

    def tap(values: Tensor, tokens: Tensor | None, *, key: str) -> None:
        assert tokens is None
        found[key].append(values.reshape(-1, values.shape[-1]).clone())

    with torch.no_grad(), tapped(model, {site: partial(tap, key=site.key) for site in sites}):
        model(IDS, use_cache=False)
    return {key: values[0] for key, values in found.items() if len(values) == 1}


def product(model: Any, name: str, values: Tensor) -> Tensor:
    """values @ W + b, by the module's tensors: W is [in, out] in GPT-2's Conv1D and [out, in] elsewhere."""
    module: Any = model.get_submodule(name)
    matrix = module.weight if type(module).__name__ == "Conv1D" else module.weight.T
    bias = getattr(module, "bias", None)
    return values @ matrix.detach() + (0 if bias is None else bias.detach())


@pytest.mark.parametrize("family", DENSE)
def test_activation_and_key_of_an_mlp_are_what_its_formula_says(family: str) -> None:
    model: Any = zoo.model(family)
    mlp, first, up, activation, down = MLP.get(family, GATED)
    sites = find_sites(model, ["mlp_activation", "mlp_key"], [1])
    values = captured(model, sites)
    prefix = decoder_layers(model)[1][0]
    assert [site.role for site in sites] == ["mlp_activation", "mlp_key"]
    assert sites[1].key == f"{prefix}.{down}:input"
    seen, key = (values[site.key] for site in sites)
    assert [site.width for site in sites] == [key.shape[1]] * 2 == [seen.shape[1]] * 2

    if mlp:
        arguments, output = passed(model, f"{prefix}.{mlp}")
        before = arguments[0].reshape(-1, 64)
        # two MLPs get the residual stream beside their input, and add it
        wrote = output - arguments[1] if family in ("bloom", "mpt") else output
    else:  # OPT's layer is its own MLP
        before = passed(model, f"{prefix}.final_layer_norm")[1]
        wrote = passed(model, f"{prefix}.fc2")[1]
    inner = product(model, f"{prefix}.{first}", before)
    gate, beside = inner, torch.ones(())
    if up == "fused":
        gate, beside = inner.chunk(2, dim=-1)
    elif up is not None:
        beside = product(model, f"{prefix}.{up}", before)
    close(seen, gate)
    close(key, activation(gate) * beside)
    close(product(model, f"{prefix}.{down}", key), wrote)


@every_family
def test_attention_output_is_what_attention_multiplies_last(family: str) -> None:
    model: Any = zoo.model(family)
    (site,) = find_sites(model, "attention_output", [1])
    prefix = decoder_layers(model)[1][0]
    name = ATTENTION.get(family, "self_attn.o_proj")
    assert site.key == f"{prefix}.{name}:input"
    (values,) = captured(model, [site]).values()
    assert values.shape[1] == site.width
    arguments, output = passed(model, f"{prefix}.{name.split('.')[0]}")
    wrote = output - arguments[1] if family == "bloom" else output
    close(product(model, f"{prefix}.{name}", values), wrote)


@every_family
def test_residual_is_what_the_layer_hands_on(family: str) -> None:
    model: Any = zoo.model(family, num_hidden_layers=3)
    sites = find_sites(model, "residual")
    assert [(site.layer, site.width, site.reads) for site in sites] == [(n, 64, "output") for n in range(3)]
    values = captured(model, sites)
    with torch.no_grad():
        states = model(IDS, use_cache=False, output_hidden_states=True).hidden_states
        norm = model.get_submodule(FINAL_NORM.get(family, "model.norm"))
        # hidden_states[k] is what goes into layer k, but the last is behind the final norm
        for wanted, site in zip(states[1:3], sites, strict=False):
            close(values[site.key], wanted)
        close(norm(values[sites[2].key]), states[3])


@every_family
def test_every_layer_has_every_role_at_places_of_its_own(family: str) -> None:
    model: Any = zoo.model(family)
    sites = find_sites(model, ROLES)
    assert {(site.role, site.layer) for site in sites} == {(role, layer) for role in ROLES for layer in (0, 1)}
    assert len({site.key for site in sites}) == len(sites)
    modules = [id(model.get_submodule(site.module)) for site in sites if site.expert is None]
    assert len(set(modules)) == len(modules)


@pytest.mark.parametrize("family", ["deepseek", "qwen2_moe"])
def test_a_shared_expert_has_sites_beside_the_routed_ones(family: str) -> None:
    model: Any = zoo.model(family)
    prefix = f"{decoder_layers(model)[1][0]}.mlp.shared_expert{'s' if family == 'deepseek' else ''}"
    activation, key = (s for s in find_sites(model, ["mlp_activation", "mlp_key"], [1]) if s.expert is None)
    assert [activation.key, key.key] == [f"{prefix}.act_fn:input", f"{prefix}.down_proj:input"]
    values = captured(model, [activation, key])
    states = passed(model, prefix)[0][0]
    close(values[activation.key], product(model, f"{prefix}.gate_proj", states))
    close(product(model, f"{prefix}.down_proj", values[key.key]), passed(model, prefix)[1])


def test_what_a_tap_returns_takes_the_values_place() -> None:
    for family, role in (("llama", "mlp_key"), ("falcon", "residual"), ("mixtral", "mlp_key"), ("gpt2", "residual")):
        model: Any = zoo.model(family)
        sites = find_sites(model, role, [1])
        with torch.no_grad(), tapped(model, {site: lambda values, _: values * 0 for site in sites}):
            if role == "residual":  # nothing is left of the layer's output, a tuple's other parts stay
                assert not passed(model, decoder_layers(model)[1][0])[1].any()
            else:  # a down projection of zeros, without bias, writes nothing
                assert not passed(model, f"{decoder_layers(model)[1][0]}.mlp")[1].any()


def test_nothing_is_left_after_an_exception() -> None:
    for family in ("llama", "mixtral"):
        model: Any = zoo.model(family)
        before = snapshot(model)

        def fail(*_: Any) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError), tapped(model, dict.fromkeys(find_sites(model, ROLES), fail)):
            model(IDS)
        assert snapshot(model) == before


def test_patterns_name_any_module() -> None:
    model: Any = zoo.model("llama")
    sites = find_sites(model, ["*.q_proj:output", "mlp_key=*.mlp.down_proj:input"], [1])
    assert [site.key for site in sites] == [
        "model.layers.1.self_attn.q_proj:output",
        "model.layers.1.mlp.down_proj:input",
    ]
    assert sites[1] == find_sites(model, "mlp_key", [1])[0]
    (norm,) = find_sites(model, "model.norm:output")
    assert (norm.layer, norm.role, norm.width) == (None, None, None)
    assert [s.layer for s in find_sites(model, ["*.k_proj:output", "residual"])] == [0, 0, 1, 1]


def test_a_peft_wrapper_changes_the_names_only() -> None:
    from peft import LoraConfig, get_peft_model

    plain: Any = zoo.model("llama")
    inner = find_sites(plain, ROLES)
    values = captured(plain, inner)
    config = LoraConfig(target_modules=["down_proj", "o_proj", "gate_proj"], task_type="CAUSAL_LM")
    wrapped: Any = get_peft_model(plain, config)
    sites = find_sites(wrapped, ROLES)
    assert [site.key for site in sites] == [f"base_model.model.{site.key}" for site in inner]
    assert [site.width for site in sites] == [site.width for site in inner]
    again = captured(wrapped, sites)
    assert all(torch.equal(again[one.key], values[other.key]) for one, other in zip(sites, inner, strict=True))


class Odd(nn.Module):
    """Two layers whose parts have names that no architecture uses, ``experts`` of them modules of their own."""

    def __init__(self, experts: int = 0) -> None:
        super().__init__()

        def layer() -> nn.Module:
            if experts:
                return nn.ModuleDict({"moe": nn.ModuleList(nn.ModuleDict({"w2": nn.Linear(3, 4)}) for _ in range(2))})
            return nn.ModuleDict({"mixer": nn.Linear(4, 4), "widen": nn.Linear(4, 6), "narrow": nn.Linear(6, 4)})

        self.layers = nn.ModuleList(layer() for _ in range(2))


def test_an_unknown_architecture_says_what_it_holds_and_what_to_do() -> None:
    held = r"layers.0 holds mixer \(Linear\), widen \(Linear\), narrow \(Linear\)"
    for role in ("mlp_activation", "mlp_key", "attention_output"):
        with pytest.raises(ModelError, match=rf"no {role} is recognised in layers 0, 1 of Odd: {held}. Say where"):
            find_sites(Odd(), role)
    sites = find_sites(Odd(), ["mlp_key=*.narrow:input", "attention_output=*.mixer:input"])
    assert [(site.role, site.layer, site.width) for site in sites] == [
        ("mlp_key", 0, 6),
        ("attention_output", 0, 4),
        ("mlp_key", 1, 6),
        ("attention_output", 1, 4),
    ]
    with pytest.raises(ModelError, match=rf"no module of Odd matches '\*.narow': {held}"):
        find_sites(Odd(), "*.narow:input")
    with pytest.raises(ModelError, match=r"layers.0.moe.0.w2: each expert is a module of its own"):
        find_sites(Odd(experts=2), "mlp_key")


def test_bad_names_and_layers() -> None:
    model: Any = zoo.model("llama")
    with pytest.raises(UnknownNameError, match="Did you mean 'mlp_key'"):
        find_sites(model, "mlp_keys")
    for word in ("mlp_keys=*.x:input", "*.down_proj:inputs", ":input"):
        with pytest.raises(UnknownNameError, match=r"is no site: expected \[ROLE=\]NAME:input"):
            find_sites(model, word)
    with pytest.raises(ModelError, match="LlamaForCausalLM has no layer 2, 5: it has layers 0 to 1"):
        find_sites(model, "mlp_key", [0, 2, 5])
    with pytest.raises(ModelError, match=r"in layers 1 matches 'model.norm'"):
        find_sites(model, "model.norm:output", [1])
    with pytest.raises(ConfigError, match="no site is named"):
        find_sites(model, [])
