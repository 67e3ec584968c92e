"""Protects routed experts read one by one: each expert's values, whose they are, and any number of listeners."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import zoo
from expunge.errors import ModelError
from expunge.models.anatomy import decoder_layers
from expunge.models.experts import listening
from expunge.models.roles import Site, find_sites
from expunge.models.taps import tapped
from fitting import snapshot
from passing import IDS, close, passed

MIXTURES = ("deepseek", "mixtral", "qwen2_moe")


def by_hand(experts: Any, states: Tensor, chosen: Tensor, weights: Tensor) -> tuple[Any, Any, Tensor]:
    """Pre-activations and keys of every (expert, token), and the layer's sum, one token after the other."""
    activations, keys, total = {}, {}, torch.zeros_like(states)
    for token, state in enumerate(states):
        for expert, weight in zip(chosen[token].tolist(), weights[token], strict=True):
            gate, up = (experts.gate_up_proj[expert] @ state).chunk(2)
            activations[expert, token] = gate
            keys[expert, token] = functional.silu(gate) * up
            total[token] += weight * (experts.down_proj[expert] @ keys[expert, token])
    return activations, keys, total


@pytest.mark.parametrize("family", MIXTURES)
@torch.no_grad()
def test_experts_are_read_one_by_one(family: str) -> None:
    model: Any = zoo.model(family)
    name = f"{decoder_layers(model)[1][0]}.mlp.experts"
    plain = model(IDS, use_cache=False).logits
    (states, chosen, weights), output = passed(model, name)
    activations, keys, total = by_hand(model.get_submodule(name), states, chosen, weights)
    close(total, output)

    found: dict[tuple[str | None, int, int], Tensor] = {}

    def tap(values: Tensor, tokens: Tensor | None, *, site: Site) -> None:
        assert tokens is not None and site.expert is not None
        for token, value in zip(tokens.tolist(), values, strict=True):
            found[site.role, site.expert, token] = value.clone()

    sites = [s for s in find_sites(model, ["mlp_activation", "mlp_key"], [1]) if s.expert is not None]
    assert [site.expert for site in sites] == 2 * [0, 1, 2, 3]
    assert {s.module for s in sites} == {f"{name}.act_fn", f"{name}.down_proj"}
    before = snapshot(model)
    with tapped(model, {site: partial(tap, site=site) for site in sites}):
        tapped_logits = model(IDS, use_cache=False).logits
    assert snapshot(model) == before
    assert torch.equal(model(IDS, use_cache=False).logits, plain)
    close(tapped_logits, plain)

    assert len(found) == 2 * len(keys) == 2 * chosen.numel()
    for role, wanted in (("mlp_activation", activations), ("mlp_key", keys)):
        for (expert, token), value in wanted.items():
            close(found[role, expert, token], value)
            assert len(value) == next(s.width for s in sites if s.role == role)


def gpt_oss() -> Any:
    """Experts with transposed matrices, biases, interleaved gates and a gate function of their own."""
    from transformers import GptOssConfig, GptOssForCausalLM

    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 20}
    config = GptOssConfig(
        **sizes, num_local_experts=3, num_experts_per_tok=2, num_attention_heads=2, num_key_value_heads=1, head_dim=8
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GptOssForCausalLM(config).eval()


@torch.no_grad()
def test_experts_with_biases_and_a_gate_of_their_own() -> None:
    model = gpt_oss()
    experts = model.model.layers[0].mlp.experts
    for tensor in experts.parameters():
        tensor.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    (states, chosen, weights), output = passed(model, "model.layers.0.mlp.experts")
    found: dict[tuple[int, int], Tensor] = {}

    def tap(values: Tensor, tokens: Tensor | None, *, expert: int) -> None:
        assert tokens is not None
        found.update({(expert, token): value for token, value in zip(tokens.tolist(), values, strict=True)})

    sites = find_sites(model, "mlp_key")
    assert [(site.expert, site.width) for site in sites] == [(0, 8), (1, 8), (2, 8)]
    with tapped(model, {site: partial(tap, expert=site.expert) for site in sites}):
        close(passed(model, "model.layers.0.mlp.experts")[1], output)
    for token, state in enumerate(states.reshape(-1, 16)):
        total = torch.zeros(16)
        for expert, weight in zip(chosen[token].tolist(), weights[token], strict=True):
            inner = state @ experts.gate_up_proj[expert] + experts.gate_up_proj_bias[expert]
            gate, up = inner[::2].clamp(max=experts.limit), inner[1::2].clamp(-experts.limit, experts.limit)
            key = (up + 1) * gate * torch.sigmoid(gate * experts.alpha)
            close(found[expert, token], key)
            total += weight * (key @ experts.down_proj[expert] + experts.down_proj_bias[expert])
        close(output.reshape(-1, 16)[token], total)
    with pytest.raises(ModelError, match="its activation function is no module"):
        find_sites(model, "mlp_activation")


@torch.no_grad()
def test_experts_without_a_gate_and_hooks_of_accelerate() -> None:
    from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
    from transformers.integrations.moe import use_experts_implementation

    @use_experts_implementation(has_gate=False)
    class Gateless(nn.Module):
        def __init__(self, config: Any) -> None:
            super().__init__()
            self.num_experts = config.num_experts
            self.up_proj = nn.Parameter(torch.randn((3, 6, 4), generator=torch.Generator().manual_seed(0)))
            self.down_proj = nn.Parameter(torch.randn((3, 4, 6), generator=torch.Generator().manual_seed(1)))
            self.act_fn = nn.ReLU()

        def forward(self, *_: Any) -> Tensor:
            raise AssertionError("only the listeners' own forward is to run")

    class Counted(ModelHook):
        calls = 0

        def pre_forward(self, _: nn.Module, *arguments: Any, **named: Any) -> Any:
            Counted.calls += 1
            return arguments, named

    experts = Gateless(SimpleNamespace(num_experts=3, _experts_implementation="eager"))
    states = torch.randn((2, 4), generator=torch.Generator().manual_seed(2))
    chosen, weights = torch.tensor([[0, 2], [2, 1]]), torch.tensor([[0.3, 0.7], [0.9, 0.1]])
    keys = {(e, t): (experts.up_proj[e] @ states[t]).relu() for t in (0, 1) for e in chosen[t].tolist()}
    parts = [
        [weight * (experts.down_proj[e] @ keys[e, t]) for e, weight in zip(chosen[t].tolist(), weights[t], strict=True)]
        for t in (0, 1)
    ]
    wanted = torch.stack([one + other for one, other in parts])
    found: list[tuple[list[int], Tensor]] = []
    listener = {2: lambda values, tokens: found.append((tokens.tolist(), values))}
    add_hook_to_module(experts, Counted())
    hooked = dict(vars(experts))
    with listening(experts, listener, listener):
        close(experts(states, chosen, weights), wanted)
    assert vars(experts) == hooked
    assert Counted.calls == 1  # what accelerate does around a forward (loading offloaded weights) is still done
    (tokens, before), (again, key) = found
    assert tokens == again == [0, 1]
    close(before, states @ experts.up_proj[2].T)
    close(key, torch.stack([keys[2, 0], keys[2, 1]]))
    remove_hook_from_module(experts)
    with listening(experts, listener, {}):
        close(experts(states, chosen, weights), wanted)


def test_experts_that_cannot_be_read_are_refused() -> None:
    model: Any = zoo.model("mixtral")
    model.model.layers[1].mlp.experts._is_expert_parallel = True
    with pytest.raises(ModelError, match=r"layers.1.mlp.experts \(MixtralExperts\).* spread over several devices"):
        find_sites(model, "mlp_key")
    assert len(find_sites(model, "mlp_key", [0])) == 4
    del model.model.layers[1].mlp.experts.has_gate
    with pytest.raises(ModelError, match="does not take part in transformers' experts interface"):
        find_sites(model, "mlp_key")


def test_several_listeners_hear_in_turn_and_leave_in_any_order() -> None:
    # Each adds to what those before it have made: 3 x + 1 with the first to come first, whoever leaves first.
    model = zoo.model("mixtral")
    sites = [site for site in find_sites(model, "mlp_key", [0]) if site.expert is not None]
    with torch.no_grad():
        plain = model(IDS).logits
        with tapped(model, {site: lambda v, _: 3 * v for site in sites}):
            tripled = model(IDS).logits
        with tapped(model, {site: lambda v, _: 3 * v + 1 for site in sites}):
            expected = model(IDS).logits
        first = tapped(model, {site: lambda v, _: 3 * v for site in sites})
        second = tapped(model, {site: lambda v, _: v + 1 for site in sites})
        first.__enter__()
        second.__enter__()
        both = model(IDS).logits
        second.__exit__(None, None, None)
        assert torch.equal(model(IDS).logits, tripled)
        with tapped(model, {site: lambda v, _: v + 1 for site in sites}):
            first.__exit__(None, None, None)
            only = model(IDS).logits
        torch.testing.assert_close(both, expected)
        assert not torch.equal(only, plain)
        assert torch.equal(model(IDS).logits, plain)
