"""Protects selective pruning: the importance, which neurons it zeroes, and that prune sets unite."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import zoo
from expunge.interventions.pruning import Pruning
from expunge.methods.activations.selective_pruning import importance
from expunge.models.taps import tapped
from fitting import fit


def pruning(values: dict[str, Any], **given: Any) -> Pruning:
    (found,) = fit("selective_pruning", values, **given).interventions
    assert isinstance(found, Pruning)
    return found


def test_importance_by_hand() -> None:
    # 3 / (1.5 + 1e-8) = 2; a neuron that is silent on retain text: 2 / 1e-8 = 2e8; silent on both: 0.
    found = importance(torch.tensor([3.0, 2.0, 0.0]).double(), torch.tensor([1.5, 0.0, 0.0]).double())
    assert found.tolist() == pytest.approx([2.0, 2e8, 0.0])


@pytest.mark.parametrize(
    ("neurons", "roles", "count"),
    [
        ("mlp", {"mlp_key"}, 26),
        ("attention", {"attention_output"}, 13),
        ("both", {"mlp_key", "attention_output"}, 39),
    ],
)
def test_a_share_of_each_kind_is_zeroed(neurons: str, roles: set[str], count: int) -> None:
    # 10% of 2 x 128 keys are 26, of 2 x 64 attention outputs 13.
    found = pruning({"k": 10, "neurons": neurons})
    assert {site.role for site in found.sites} == roles
    assert sum(map(len, found.chosen.values())) == count


def test_pruned_neurons_pass_zeros_and_the_others_what_they_had() -> None:
    model, ids = zoo.model("llama"), torch.tensor([[5, 9, 3]])
    found = pruning({"k": 20, "layers": [0]})
    (site,) = found.sites
    neurons = found.chosen[site]
    seen: list[torch.Tensor] = []
    with torch.no_grad():
        with tapped(model, {site: lambda v, _: seen.append(v.clone())}):
            model(ids)
        with found.active(model, None), tapped(model, {site: lambda v, _: seen.append(v.clone())}):
            model(ids)
    expected = seen[0].clone()
    expected[..., neurons] = 0
    assert len(neurons) == 26
    assert torch.equal(seen[1], expected)


def test_the_most_important_neurons_are_chosen() -> None:
    found = pruning({"k": 5, "layers": [1]})
    (site,) = found.sites
    model = zoo.model("llama")
    from expunge.probing.probe import Probe
    from fitting import REQUEST

    probes = [Probe([site]).run(model, zoo.tokenizer("llama"), some) for some in (REQUEST.forget, REQUEST.retain)]
    ratio = probes[0].magnitude(site) / (probes[1].magnitude(site) + 1e-8)
    assert set(found.chosen[site].tolist()) == set(ratio.argsort(descending=True)[:6].tolist())  # 5% of 128 are 6.4


def test_prune_sets_unite() -> None:
    one, other = pruning({"k": 5}), pruning({"k": 5, "neurons": "both", "part": "answer"})
    (united,) = Pruning.united([one, other])
    for site in {*one.sites, *other.sites}:
        expected = {int(n) for p in (one, other) for n in p.chosen.get(site, torch.tensor([]))}
        assert set(united.chosen[site].tolist()) == expected
