"""Protects neuron adjustment: densities, the mirrored value, the odds of it, and rows that do not depend on a batch."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import pytest
import torch

import zoo
from expunge.interventions.adjustment import Adjusted, Adjustment, log_density_ratio, mirrored
from expunge.interventions.draws import neuron_keys, token_keys, uniform
from expunge.models.roles import Site, find_sites
from expunge.models.taps import tapped

FAMILIES = ["llama", "gpt2", "opt", "bloom", "falcon", "gemma3", "phi3", "mixtral"]


def test_the_mirrored_value_by_hand() -> None:
    # v = 5 is 2 standard deviations above the forget mean 1 (sd 2): 2 below the retain mean 10 (sd 3) is 4.
    values = (torch.tensor([x]) for x in (5.0, 1.0, 2.0, 10.0, 3.0))
    assert mirrored(*values).item() == 4.0


def test_the_log_ratio_is_that_of_the_two_densities() -> None:
    # N(0; 0, 1) / N(0; 1, 2) = [1/sqrt(2 pi)] / [exp(-1/8) / (2 sqrt(2 pi))] = 2 exp(1/8).
    values = (torch.tensor([x]) for x in (0.0, 0.0, 1.0, 1.0, 2.0))
    assert log_density_ratio(*values).item() == pytest.approx(math.log(2) + 1 / 8)
    forget, retain = NormalDist(-3.2, 0.7), NormalDist(0.4, 1.9)
    for v in (-6.0, -3.0, 0.0, 2.5):
        expected = math.log(forget.pdf(v) / retain.pdf(v))
        parts = (torch.tensor([x]) for x in (v, -3.2, 0.7, 0.4, 1.9))
        assert log_density_ratio(*parts).item() == pytest.approx(expected, rel=1e-5)


def test_far_from_zero_nothing_cancels() -> None:
    # Both means at 1e4, a standard deviation of 0.01: as float32 polynomials in v the terms would be 1e12 large.
    # v = 1e4 lies 2 forget and 0 retain standard deviations off, so the log ratio is -2.
    parts = [torch.tensor([x], dtype=torch.float64) for x in (0.02, 0.01, 0.0, 0.01)]
    parts[0] += 1e4
    parts[2] += 1e4
    assert log_density_ratio(torch.tensor([1e4]), *parts).item() == pytest.approx(-2.0, abs=1e-3)


def one_neuron(model: Any, deterministic: bool = False) -> tuple[Adjustment, Site]:
    """All neurons of the first layer, forget mean .5 and retain mean -.5, both with standard deviation 1."""
    site = find_sites(model, "mlp_activation", [0])[0]
    width = site.width or 0
    ones = torch.ones(width, dtype=torch.float64)
    return Adjustment({site: Adjusted(torch.arange(width), ones / 2, ones, -ones / 2, ones)}, 7, deterministic), site


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_forward_adjusts_what_the_definition_says(deterministic: bool) -> None:
    # log N(v; .5, 1) - log N(v; -.5, 1) = v, so v > 0 is adjusted with probability 1/(1 + exp(-v)), to
    # -.5 - (v - .5) = -v.
    model = zoo.model("llama")
    adjustment, site = one_neuron(model, deterministic)
    ids = torch.tensor([[5, 9, 3, 7]])
    before: list[torch.Tensor] = []
    after: list[torch.Tensor] = []
    with tapped(model, {site: lambda v, _: before.append(v.clone())}), torch.no_grad():
        model(ids)
    with adjustment.active(model, None), tapped(model, {site: lambda v, _: after.append(v.clone())}), torch.no_grad():
        model(ids)
    draws = uniform(token_keys(7, torch.arange(4)[None], ids), neuron_keys(site.key, torch.arange(site.width or 0)))
    odds = 1 / (1 + (-before[0]).exp())
    hit = (before[0] > 0) & ((draws < odds) if not deterministic else torch.tensor(True))
    assert 0.2 < float(hit.float().mean()) < 0.6
    torch.testing.assert_close(after[0], torch.where(hit, -before[0], before[0]))


def every_other_neuron(model: Any) -> Adjustment:
    """Half of the neurons of all layers (of the first three experts), with random distributions."""
    generator = torch.Generator().manual_seed(1)
    chosen = {}
    for site in find_sites(model, "mlp_activation"):
        if site.expert is None or site.expert < 3:
            neurons = torch.arange(0, site.width or 0, 2)
            forget, retain = (torch.randn(len(neurons), generator=generator).double() * 0.05 for _ in range(2))
            chosen[site] = Adjusted(neurons, forget, forget.abs() + 0.02, retain, retain.abs() + 0.02)
    return Adjustment(chosen, 3)


def continued(model: Any, ids: torch.Tensor, mask: torch.Tensor, **given: Any) -> list[list[int]]:
    settings: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    tokens: list[list[int]] = model.generate(ids, attention_mask=mask, **settings, **given)[:, -4:].tolist()
    return tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_is_the_same_in_any_batch_padding_and_with_a_cache(family: str) -> None:
    model = zoo.model(family)
    rows = [[5, 9, 3, 7, 11, 2], [8, 4, 6]]
    mask = torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0]])
    right, left = torch.tensor([rows[0], [*rows[1], 0, 0, 0]]), torch.tensor([rows[0], [0, 0, 0, *rows[1]]])
    singly = [torch.tensor([row]) for row in rows]
    with torch.no_grad():
        plain = [model(ids).logits[0] for ids in singly]
        with every_other_neuron(model).active(model, None):
            alone = [model(ids).logits[0] for ids in singly]
            padded = model(right, attention_mask=mask).logits
            together = continued(model, left, mask.flip(1))
            cached = [continued(model, ids, torch.ones_like(ids)) for ids in singly]
            whole = [continued(model, ids, torch.ones_like(ids), use_cache=False) for ids in singly]
        assert torch.equal(model(singly[0]).logits[0], plain[0])
    assert all(float((a - b).abs().max()) > 1e-4 for a, b in zip(alone, plain, strict=True))
    for row, one in zip(padded, alone, strict=True):
        torch.testing.assert_close(row[: len(one)], one, atol=2e-5, rtol=1e-4)
    assert together == [cached[0][0], cached[1][0]] == [whole[0][0], whole[1][0]]


def test_many_draws_are_made_site_by_site_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    from expunge.interventions import adjustment as module

    model = zoo.model("llama")
    adjustment, _ = one_neuron(model)
    ids = torch.tensor([[5, 9, 3, 7]])
    with adjustment.active(model, None), torch.no_grad():
        at_once = model(ids).logits
        monkeypatch.setattr(module, "_DRAWS", 0)
        assert torch.equal(model(ids).logits, at_once)


def test_nothing_is_left_after_an_exception() -> None:
    model = zoo.model("llama")
    ids = torch.tensor([[5, 9, 3]])
    with torch.no_grad():
        plain = model(ids).logits
        adjustment, _ = one_neuron(model)
        with pytest.raises(KeyError), adjustment.active(model, None):
            raise KeyError
        assert torch.equal(model(ids).logits, plain)


def test_saved_and_read_it_is_the_same() -> None:
    model = zoo.model("llama")
    adjustment, _ = one_neuron(model)
    again = Adjustment.read(adjustment.facts(), adjustment.tensors())
    ids = torch.tensor([[5, 9, 3]])
    with torch.no_grad():
        with adjustment.active(model, None):
            one = model(ids).logits
        with again.active(model, None):
            assert torch.equal(model(ids).logits, one)
