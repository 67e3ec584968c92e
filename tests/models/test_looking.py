"""Protects what counts as held: at all sites, at a layer's experts, on real tokens, by the first cube."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from detecting import PROMPTS, padded
from expunge.models.abstention import abstaining
from expunge.models.forwards import Passing
from expunge.models.looking import Applied, Look, first_cube
from expunge.models.roles import Site, find_sites
from expunge.models.taps import tapped
from fitting import snapshot

END = 2


class AtLeast:
    """Cube c holds a value whose first neuron is at least c + 1."""

    steer = None

    def __init__(self, *sites: Site, count: int = 2) -> None:
        self.sites, self.count, self.refusals = sites, count, ((11,),) * count

    def inside(self, site: Site, values: Tensor, *, scoring: bool) -> Tensor:  # noqa: ARG002
        return values[:, :1] >= torch.arange(1, self.count + 1)


def column(*values: float) -> Tensor:
    return torch.tensor(values)[:, None]


def test_a_token_is_held_by_a_cube_that_holds_it_at_all_sites() -> None:
    first, second = Site("a", "input"), Site("b", "input")
    applied = Applied(AtLeast(first, second), END, 100)
    # one row of four tokens, the first of them padding
    look = Look.everywhere(Passing(None, torch.tensor([[-1, 0, 1, 2]]), 0))
    look.see(applied, first, column(2, 2, 2, 1)[None], None)
    assert look.held(applied) is None  # not all sites were passed
    look.see(applied, second, column(2, 2, 1, 0), None)
    # token 1: 2 and 2, both cubes; token 2: 2 and 1, cube 0; token 3: 1 and 0, none
    held = look.held(applied)
    assert held is not None
    assert held.tolist() == [[False, False], [True, True], [True, False], [False, False]]
    assert look.hits(applied).tolist() == [[False, True, True, False]]


def test_at_a_layers_experts_a_token_is_held_by_all_that_it_was_sent_to() -> None:
    one, other = (Site("experts.down_proj", "input", layer=0, expert=number) for number in (0, 1))
    applied = Applied(AtLeast(one, other, count=1), END, 100)
    look = Look.everywhere(Passing(None, torch.arange(4).view(2, 2), 0))
    # token 0 goes to expert 0 (inside); token 1 to both (inside, outside); token 2 to neither of the two; token 3 to
    # both (inside, inside)
    look.see(applied, one, column(1, 1, 1), torch.tensor([0, 1, 3]))
    look.see(applied, other, column(0, 1), torch.tensor([1, 3]))
    assert look.hits(applied).tolist() == [[True, False], [False, True]]
    # where another site is asked for, too, both must hold
    both = Applied(AtLeast(Site("a", "input"), one, count=1), END, 100)
    look = Look.everywhere(Passing(None, torch.arange(4).view(2, 2), 0))
    look.see(both, Site("a", "input"), column(1, 1, 1, 0), None)
    look.see(both, one, column(1, 1, 1), torch.tensor([0, 1, 3]))
    assert look.hits(both).tolist() == [[True, True], [False, False]]


def test_experts_see_the_tokens_that_are_looked_at_alone() -> None:
    site = Site("experts.down_proj", "input", layer=0, expert=0)
    applied = Applied(AtLeast(site, count=1), END, 100)
    # tokens 1 and 5 of two rows of three
    look = Look(
        Passing(None, torch.arange(6).view(2, 3), 0),
        torch.tensor([1, 5]),
        torch.tensor([True, True]),
        1,
        scoring=False,
        steers=True,
    )
    look.see(applied, site, column(1, 1, 1), torch.tensor([0, 4, 5]))
    assert look.hits(applied).tolist() == [[False], [True]]


def test_the_first_cube_of_the_first_detector_wins() -> None:
    site = Site("a", "input")
    several = [Applied(AtLeast(site, count=2), END, 100), Applied(AtLeast(site, count=3), END, 100)]
    look = Look.everywhere(Passing(None, torch.arange(3)[None], 0))
    look.see(several[0], site, column(0, 2, 0), None)
    look.see(several[1], site, column(1, 1, 0), None)
    # cubes 0 and 1 are the first detector's, 2 to 4 the second's
    held = look.held_by(several)
    assert held is not None
    assert held.int().tolist() == [[[0, 0, 1, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]]]
    assert first_cube(held).tolist() == [[2, 0, -1]]
    # a detector whose sites were not passed holds nothing
    elsewhere = Applied(AtLeast(Site("b", "input"), count=1), END, 100)
    held = look.held_by([elsewhere, *several])
    assert held is not None
    assert first_cube(held).tolist() == [[3, 1, -1]]
    assert look.held_by([elsewhere]) is None


class Keys:
    """One cube: the values that a prompt's last token has at each expert of some layers that it was sent to."""

    steer, count = None, 1

    def __init__(self, model: Any, prompt: list[int], refusal: tuple[int, ...]) -> None:
        self.refusals = (refusal,)
        found: dict[Site, Tensor] = {}

        def keep(values: Tensor, tokens: Tensor | None, *, site: Site) -> None:
            values = values.reshape(-1, values.shape[-1])
            place = torch.arange(len(values)) if tokens is None else tokens
            if (place == len(prompt) - 1).any():
                found[site] = values[place == len(prompt) - 1].clone()

        sites = find_sites(model, "mlp_key")
        with torch.no_grad(), tapped(model, {site: partial(keep, site=site) for site in sites}):
            model(torch.tensor([prompt]), use_cache=False)
        self.keys = found
        self.sites = tuple(site for site in sites if site in found)

    def inside(self, site: Site, values: Tensor, *, scoring: bool) -> Tensor:  # noqa: ARG002
        return (values - self.keys[site]).norm(dim=-1, keepdim=True) <= 1e-4 * self.keys[site].norm()


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "deepseek"])
def test_several_detectors_listen_to_the_same_experts_and_are_lifted_in_any_order(family: str) -> None:
    model: Any = zoo.model(family)
    before = snapshot(model)
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": 1, "eos_token_id": END}
    batch = padded(PROMPTS)
    width = batch["input_ids"].shape[1]
    plain = model.generate(**batch, **settings)[:, width:].tolist()
    detectors = [Keys(model, PROMPTS[0], (11,)), Keys(model, PROMPTS[0], (12,)), Keys(model, PROMPTS[1], (13, 14))]
    by_layer: dict[Any, set[Any]] = defaultdict(set)
    for site in detectors[0].sites:
        by_layer[site.layer].add(site.expert)
    assert any(len(experts - {None}) == 2 for experts in by_layer.values())  # each token goes to two

    def found() -> list[list[int]]:
        return model.generate(**batch, **settings)[:, width:].tolist()

    stack = [abstaining(model, detector, end_token=END) for detector in detectors]
    for one in stack:
        one.__enter__()
    assert found() == [[11, END, 1, 1], [13, 14, END, 1], plain[2]]
    with torch.no_grad():
        logits = model(**batch, use_cache=False).logits[:, -1]
    assert logits.count_nonzero(-1).gt(0).tolist() == [False, False, True]
    stack[0].__exit__(None, None, None)
    assert found() == [[12, END, 1, 1], [13, 14, END, 1], plain[2]]
    stack[2].__exit__(None, None, None)
    assert found() == [[12, END, 1, 1], plain[1], plain[2]]
    stack[1].__exit__(None, None, None)
    assert snapshot(model) == before
    assert found() == plain
