"""Protects how near rows come to hypercubes: which tokens and sites count, and that batches change nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from expunge.data.encode import encode_all
from expunge.data.template import Template
from expunge.errors import ConfigError, InputError, ModelError
from expunge.interventions import row_ratios as module
from expunge.interventions.hypercube import Hypercube, Hypercubes
from expunge.interventions.row_ratios import RowRatios, row_ratios
from expunge.models.abstention import abstaining
from expunge.models.roles import Site
from expunge.models.taps import tapped
from expunge.probing.probe import Probe
from expunge.requests import Row
from fitting import rows, snapshot

OTHERS = (*rows(7, "other"), Row("", "A document about the river.", "document", source="other.jsonl:8"))


def cubes_of(family: str, model: Any, sites: Any = "mlp_key", **scope: Any) -> Hypercubes:
    """Two hypercubes, of four and of five rows."""
    probe = Probe(sites, extremes=True, **scope)
    made = [
        Hypercube.of(probe.run(model, zoo.tokenizer(family), rows(count, name)))
        for count, name in ((4, "forget"), (5, "else"))
    ]
    return Hypercubes(made, generation=[1, 1], scoring=[1, 1])


@torch.no_grad()
def by_hand(family: str, model: Any, cubes: Hypercubes, mode: str) -> dict[int | None, Tensor]:
    """Row by row and token by token, in float64: [R, 2] smallest of the largest ratios, by layer and (None) joint."""
    tokenizer = zoo.tokenizer(family)
    found: dict[int | None, list[Tensor]] = {}
    for example in encode_all(tokenizer, Template.of(tokenizer), OTHERS, max_length=512):
        length = len(example.input_ids)
        seen: dict[Site, tuple[Tensor, Tensor]] = {}

        def note(values: Tensor, tokens: Tensor | None, site: Site, seen: Any = seen, length: int = length) -> None:
            places = torch.arange(length) if tokens is None else tokens
            seen[site] = (values.reshape(-1, values.shape[-1]).double().clone(), places)

        taps = {site: (lambda v, t, s=site: note(v, t, s)) for site in cubes.sites}
        with tapped(model, taps):
            model(torch.tensor([example.input_ids]), use_cache=False)
        first = 0 if mode == "score" else example.answer_start - 1
        last = length if mode == "score" else length - 1  # the end token is never run
        layers: dict[int | None, Tensor] = {}
        for layer in sorted({site.layer or 0 for site in cubes.sites}):
            here = [site for site in cubes.sites if site.layer == layer]
            worst = torch.zeros(length, 2, dtype=torch.float64)
            for name in {site.module for site in here}:
                own = torch.full((length, 2), -1.0, dtype=torch.float64)
                for site in (site for site in here if site.module == name and site in seen):
                    values, places = seen[site]
                    for cube, made in enumerate(cubes.cubes):
                        box = made.boxes[site]
                        apart = (values - box.centre.double()).abs()
                        still = torch.where(apart <= box.tolerance.double(), 0.0, torch.inf)
                        ratio = torch.where(box.spread > 0, apart / box.spread.double(), still).amax(1)
                        own[places, cube] = torch.maximum(own[places, cube], ratio)
                own[own < 0] = torch.inf
                worst = torch.maximum(worst, own)
            layers[layer] = worst
        layers[None] = torch.stack(list(layers.values())).amax(0)
        for layer, worst in layers.items():
            found.setdefault(layer, []).append(worst[first:last].amin(0))
    return {layer: torch.stack(some).float() for layer, some in found.items()}


def same(found: RowRatios, wanted: dict[int | None, Tensor]) -> None:
    torch.testing.assert_close(found.joint, wanted[None], rtol=1e-3, atol=1e-5)
    for layer, some in zip(found.layers, found.by_layer, strict=True):
        torch.testing.assert_close(some, wanted[layer], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("mode", ["generate", "score"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "mixtral", "qwen2_moe"])
def test_smallest_over_tokens_of_the_largest_over_sites(family: str, mode: Any) -> None:
    model = zoo.model(family)
    cubes = cubes_of(family, model)
    found = row_ratios(model, zoo.tokenizer(family), OTHERS, cubes, mode)
    assert found.layers == (0, 1)
    same(found, by_hand(family, model, cubes, mode))


def test_a_token_sent_to_none_of_the_given_experts_is_never_detected() -> None:
    model = zoo.model("mixtral")
    cubes = cubes_of("mixtral", model)
    layer = [site for site in cubes.sites if site.layer == 1]
    alone = [Hypercube({layer[0]: cube.boxes[layer[0]]}) for cube in cubes.cubes]
    only = Hypercubes(alone, generation=[1, 1], scoring=[1, 1])
    some = row_ratios(model, zoo.tokenizer("mixtral"), OTHERS, only, "generate")
    same(some, by_hand("mixtral", model, only, "generate"))


@pytest.mark.parametrize("family", ["llama", "opt", "mixtral"])
def test_abstention_begins_where_the_ratio_says(family: str) -> None:
    model, tokenizer = zoo.model(family), zoo.tokenizer(family)
    cubes = cubes_of(family, model)
    found = row_ratios(model, tokenizer, OTHERS, cubes, "score").joint
    scale = float(found[:, 0].median()) * 1.0001
    detector = Hypercubes(cubes.cubes[:1], generation=[0.0], scoring=[scale])
    uniform = []
    for example in encode_all(tokenizer, Template.of(tokenizer), OTHERS, max_length=512):
        with torch.no_grad(), abstaining(model, detector, end_token=0):
            logits = model(torch.tensor([example.input_ids]), use_cache=False).logits[0]
        uniform.append(bool((logits == logits[:, :1]).all(-1).any()))
    assert uniform == (found[:, 0] <= scale).tolist()
    assert any(uniform) and not all(uniform)


def test_sites_outside_the_layers_and_several_roles() -> None:
    model = zoo.model("llama")
    for sites in (["model.norm:output"], ["mlp_key", "attention_output"]):
        found = row_ratios(model, zoo.tokenizer("llama"), OTHERS, cubes_of("llama", model, sites), "score")
        assert found.layers == ((None,) if len(sites) == 1 else (0, 1))
        assert found.joint.shape == (8, 2) and found.by_layer.shape == (len(found.layers), 8, 2)
        assert torch.equal(found.joint >= found.by_layer.amax(0), torch.ones(8, 2, dtype=torch.bool))


def test_rows_of_the_cube_itself_are_within_k_star() -> None:
    model, tokenizer = zoo.model("llama"), zoo.tokenizer("llama")
    cubes = cubes_of("llama", model)
    for number, own in enumerate((rows(4, "forget"), rows(5, "else"))):
        found = row_ratios(model, tokenizer, own, cubes, "score")
        assert (found.joint[:, number] <= cubes.cubes[number].k_star * 1.001).all()


def test_batches_change_nothing_and_nothing_is_left_on_the_model() -> None:
    model, tokenizer = zoo.model("llama"), zoo.tokenizer("llama")
    cubes = cubes_of("llama", model)
    model.train()
    before = snapshot(model)
    shown: list[tuple[int, int, str]] = []
    found = row_ratios(model, tokenizer, OTHERS, cubes, batch_rows=3, progress=lambda *given: shown.append(given))
    assert snapshot(model) == before
    assert shown[-1] == (8, 8, "calibrate")
    alone = torch.cat([row_ratios(model, tokenizer, [row], cubes).joint for row in OTHERS])
    torch.testing.assert_close(found.joint, alone, rtol=1e-3, atol=1e-5)


def test_bad_input() -> None:
    model, tokenizer = zoo.model("llama"), zoo.tokenizer("llama")
    cubes = cubes_of("llama", model)
    with pytest.raises(InputError, match="no rows"):
        row_ratios(model, tokenizer, [], cubes)
    with pytest.raises(ConfigError, match="Did you mean 'score'"):
        row_ratios(model, tokenizer, OTHERS, cubes, "scores")  # type: ignore[arg-type]
    with torch.no_grad():
        model.get_submodule("model.layers.1.mlp.up_proj").weight[0, 0] = torch.nan  # type: ignore[operator,union-attr]
    with pytest.raises(ModelError, match=r"NaN or infinite in other.jsonl:1, .*and 3 more rows"):
        row_ratios(model, tokenizer, OTHERS, cubes)


class StoppedError(Exception):
    pass


def test_processes_share_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = zoo.model("llama"), zoo.tokenizer("llama")
    cubes = cubes_of("llama", model)
    wanted = row_ratios(model, tokenizer, OTHERS, cubes)
    told: list[Any] = []

    def stop(values: list[Any]) -> list[Any]:
        if values != [None]:
            told.extend(values)
            raise StoppedError
        return values

    # the other process has the even rows and tells them; this one has the odd ones
    monkeypatch.setattr(module, "share", lambda sizes: list(range(0, len(sizes), 2)))
    monkeypatch.setattr(module, "gather", stop)
    with pytest.raises(StoppedError):
        row_ratios(model, tokenizer, OTHERS, cubes)
    assert [sorted(part) for part in told] == [[0, 2, 4, 6]]
    monkeypatch.setattr(module, "share", lambda sizes: list(range(1, len(sizes), 2)))
    monkeypatch.setattr(module, "gather", lambda values: values if values == [None] else [*told, *values])
    found = row_ratios(model, tokenizer, OTHERS, cubes)
    torch.testing.assert_close(found.joint, wanted.joint, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.by_layer, wanted.by_layer, rtol=1e-3, atol=1e-5)
    # an error of the other is this one's, too
    monkeypatch.setattr(module, "gather", lambda values: [*values, ModelError("over there")])
    with pytest.raises(ModelError, match="over there"):
        row_ratios(model, tokenizer, OTHERS, cubes)
