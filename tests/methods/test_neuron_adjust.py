"""Protects neuron_adjust: which neurons it chooses and the distributions it takes from the rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import zoo
from expunge.errors import ConfigError, ModelError, RequestError
from expunge.interventions.adjustment import Adjustment
from expunge.models.roles import Site
from expunge.models.taps import tapped
from expunge.probing.statistics import Moments
from expunge.requests import Request, Row
from fitting import REQUEST, fit, rows


def adjustment(values: dict[str, Any] | None = None, **given: Any) -> Adjustment:
    (found,) = fit("neuron_adjust", values, **given).interventions
    assert isinstance(found, Adjustment)
    return found


def values_at(model: Any, site: Site, some: tuple[Row, ...]) -> torch.Tensor:
    """[tokens, W] of all tokens of the rows, one row a forward."""
    from expunge.data.encode import encode_all
    from expunge.data.template import Template

    found: list[torch.Tensor] = []
    tokenizer = zoo.tokenizer("llama")
    with tapped(model, {site: lambda v, _: found.append(v[0].double())}), torch.no_grad():
        for example in encode_all(tokenizer, Template.of(tokenizer), some, max_length=512):
            model(torch.tensor([example.input_ids]))
    return torch.cat(found)


def test_the_neurons_with_the_highest_forget_above_retain_means_are_adjusted() -> None:
    model = zoo.model("llama")
    found = adjustment({"k": 5})
    sites = [Site(f"model.layers.{n}.mlp.act_fn", "input", "mlp_activation", n, 128) for n in range(2)]
    means = {}
    for site in sites:
        forget, retain = (values_at(model, site, some) for some in (REQUEST.forget, REQUEST.retain))
        means[site] = forget.mean(0) - retain.mean(0)
    # 5% of 256 neurons are 12.8: 13 of them, whatever their layer.
    flat = torch.cat([means[site] for site in sites])
    expected = set(flat.argsort(descending=True)[:13].tolist())
    assert {(site.layer or 0) * 128 + int(n) for site, one in found.chosen.items() for n in one.neurons} == expected
    for site, one in found.chosen.items():
        for values, mean, sd in (
            (values_at(model, site, REQUEST.forget), one.mean_f, one.sd_f),
            (values_at(model, site, REQUEST.retain), one.mean_r, one.sd_r),
        ):
            torch.testing.assert_close(mean, values.mean(0)[one.neurons], rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(sd, values.std(0)[one.neurons], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("score", ["absolute", "standardised"])
def test_other_scores_choose_other_neurons(score: str) -> None:
    chosen = [
        {(site.key, int(n)) for site, one in adjustment({"k": 10, **values}).chosen.items() for n in one.neurons}
        for values in ({}, {"score": score})
    ]
    assert chosen[0] != chosen[1]


def test_layers_and_the_figures_in_the_manifest() -> None:
    erasure = fit("neuron_adjust", {"layers": [1], "k": 10})
    assert {site.layer for site in erasure.interventions[0].sites} == {1}
    assert erasure.details["neurons"] == {"1": 13}  # 10% of 128
    assert erasure.details["neurons_that_do_not_vary"] == 0


def test_neurons_that_do_not_vary_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every deviation of the first 100 neurons of each layer is 0: 28 of 128 a layer can be chosen, 56 of 256 = 21.9%.
    own = Moments.deviation.fget  # type: ignore[attr-defined]

    def some(self: Moments) -> torch.Tensor:
        return torch.cat([torch.zeros(100, dtype=torch.float64), own(self)[100:]])

    monkeypatch.setattr(Moments, "deviation", property(some))
    erasure = fit("neuron_adjust", {"k": 20})
    assert erasure.details["neurons_that_do_not_vary"] == 200
    assert all(int(one.neurons.min()) >= 100 for one in erasure.interventions[0].chosen.values())
    with pytest.raises(ConfigError, match="30% of 256 neurons are 77, and only 56 can be chosen"):
        fit("neuron_adjust", {"k": 30})


def test_what_it_refuses() -> None:
    with pytest.raises(RequestError, match="neuron_adjust compares forget rows with retain rows"):
        fit("neuron_adjust", request=Request(forget=rows(3, "forget")))
    with pytest.raises(ModelError, match="no layer 7"):
        fit("neuron_adjust", {"layers": [7]})
    damaged = zoo.model("llama")
    with torch.no_grad():
        damaged.model.layers[0].mlp.gate_proj.weight[3] = float("nan")
    with pytest.raises(ModelError, match="NaN"):
        fit("neuron_adjust", model=damaged)
