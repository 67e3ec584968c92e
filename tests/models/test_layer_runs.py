"""Protects forwards that begin at a layer: what the whole forward gives, bit for bit, and nothing left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import zoo
from expunge.data.batches import Side, collate
from expunge.data.encode import Example
from expunge.models.layer_runs import LayerRuns
from expunge.models.roles import find_sites

EXAMPLES = [Example([5, 6, 7, 8, 9, 10], 3, False, 6), Example([9, 8, 7, 6], 2, False, 4)]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", zoo.FAMILIES)
@torch.no_grad()
def test_a_restarted_forward_is_the_whole_one(family: str, side: Side) -> None:
    model = zoo.model(family)
    batch = collate(EXAMPLES, 0, side)
    runs = LayerRuns(model)
    recorded = runs.record(batch, layers=range(2))
    for first in (1, 2):  # 2: no layer is run, only what follows them
        assert torch.equal(runs.run(batch, first, recorded.layers[first - 1]), recorded.states)
    assert torch.equal(runs.run(batch, 0, None), recorded.states)
    assert runs.agrees(batch, recorded)
    assert not any("forward" in module.__dict__ or module._forward_hooks for module in model.modules())


@torch.no_grad()
def test_copies_follow_each_other_and_taps_see_them_all() -> None:
    model, batch = zoo.model("llama"), collate(EXAMPLES, 0)
    runs = LayerRuns(model)
    (site,) = find_sites(model, "mlp_key", [1])
    recorded = runs.record(batch, layers=[0], sites=[site])
    seen: list[torch.Tensor] = []
    states = runs.run(batch, 1, recorded.layers[0], taps={site: lambda values, _: seen.append(values)}, copies=3)
    assert states.shape == (6, 6, 64)
    torch.testing.assert_close(states, recorded.states.repeat(3, 1, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen[0], recorded.sites[site].repeat(3, 1, 1), atol=1e-5, rtol=0)


@torch.no_grad()
def test_what_layers_hand_to_each_other_beside_their_output_is_noticed() -> None:
    model, batch = zoo.model("llama"), collate(EXAMPLES, 0)
    handed: list[int] = []
    below, above = (layer.mlp for layer in model.model.layers)  # type: ignore[union-attr]
    below.register_forward_hook(lambda *_: handed.append(1))
    above.register_forward_hook(lambda _, __, output: output + handed.pop() if handed else None)
    runs = LayerRuns(model)
    assert not runs.agrees(batch, runs.record(batch, layers=[0]))


@torch.no_grad()
def test_every_place_of_a_restart_is_looked_at() -> None:
    """Layer 0 hands something to layer 1 alone. A run that begins at layer 1 misses it; one that begins at layer 2 has
    it in what layer 1 gave."""
    model, batch = zoo.model("llama", num_hidden_layers=3), collate(EXAMPLES, 0)
    handed: list[int] = []
    below, above = (layer.mlp for layer in list(model.model.layers)[:2])  # type: ignore[union-attr]
    plain = {module: module.forward for module in (below, above)}
    below.forward = lambda values: (handed.append(1), plain[below](values))[1]  # type: ignore[func-returns-value]
    above.forward = lambda values: plain[above](values) + (handed.pop() if handed else 0)
    runs = LayerRuns(model)
    recorded = runs.record(batch, layers=[0, 1])
    assert runs.agrees(batch, recorded)  # the last one alone
    assert runs.restarts(batch, [1])
    assert not runs.restarts(batch, [0])
    assert not runs.restarts(batch, [0, 1])


@torch.no_grad()
def test_hooks_of_layers_that_are_not_run_do_not_act_twice() -> None:
    model, batch = zoo.model("llama"), collate(EXAMPLES, 0)
    assert LayerRuns(model).restarts(batch, [0])
    plain = LayerRuns(model).record(batch, layers=[0]).layers[0]
    layer = model.model.layers[0]  # type: ignore[union-attr,index]
    hook = layer.register_forward_hook(lambda _, __, output: output * 0.3)
    runs = LayerRuns(model)
    recorded = runs.record(batch, layers=[0])
    torch.testing.assert_close(recorded.layers[0], plain * 0.3)  # what it gave has the hook in it
    assert torch.equal(runs.run(batch, 1, recorded.layers[0]), recorded.states)
    assert list(layer._forward_hooks.values()) and hook.id in layer._forward_hooks  # it is there again
    # what else it does in some prompts is not known, so whole forwards are asked for
    assert not runs.restarts(batch, [0])
    hook.remove()
    assert runs.restarts(batch, [0])
    model(input_ids=batch.input_ids, output_hidden_states=True)  # after this, hooks that only look may stay
    assert runs.restarts(batch, [0])


def test_nothing_is_left_behind_after_an_exception() -> None:
    model, batch = zoo.model("gpt2"), collate(EXAMPLES, 0)
    runs = LayerRuns(model)
    (site,) = find_sites(model, "mlp_key", [1])

    def fail(*_: Any) -> None:
        raise RuntimeError("on purpose")

    with torch.no_grad():
        entering = runs.record(batch, layers=[0]).layers[0]
    with pytest.raises(RuntimeError, match="on purpose"):
        runs.run(batch, 1, entering, taps={site: fail})
    hooks = [module._forward_hooks or module._forward_pre_hooks for module in model.modules()]
    assert not any(hooks)
    assert not any("forward" in module.__dict__ for module in model.modules())
