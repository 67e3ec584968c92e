"""A detector that knows tokens by their values at sites of a tiny model, and prompts to try it on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from expunge.models.roles import Site, find_sites
from expunge.models.taps import tapped

PROMPTS = ([21, 35, 17, 9, 30], [14, 40, 8], [33, 12, 27, 19])
PAD = 1


class Near:
    """Cube c holds the values that are within 1e-4 (relative) of its key at a site.

    ``keys`` gives each site's [C, W].
    """

    def __init__(
        self, keys: Mapping[Site, Tensor], refusals: Sequence[tuple[int, ...]] = ((11, 12, 13),), steer: Any = None
    ) -> None:
        self.keys, self.steer = dict(keys), steer
        self.sites, self.count = tuple(keys), len(next(iter(keys.values())))
        self.refusals = tuple(refusals)
        self.calls: list[tuple[Site, int, bool]] = []

    def inside(self, site: Site, values: Tensor, *, scoring: bool) -> Tensor:
        self.calls.append((site, len(values), scoring))
        keys = self.keys[site]
        return (values[:, None].float() - keys).norm(dim=-1) <= 1e-4 * keys.norm(dim=-1)


def seen(model: Any, sites: Sequence[Site], ids: Sequence[int]) -> dict[Site, Tensor]:
    """[S, W] what each dense site sees when a text is run alone."""
    found: dict[Site, Tensor] = {}

    def keep(values: Tensor, _tokens: Any, *, site: Site) -> None:
        found[site] = values.reshape(-1, values.shape[-1]).clone()

    with torch.no_grad(), tapped(model, {site: partial(keep, site=site) for site in sites}):
        model(torch.tensor([ids]), use_cache=False)
    return found


def knowing(model: Any, *texts: Sequence[int], refusals: Sequence[tuple[int, ...]] = (), **more: Any) -> Near:
    """A detector of the last tokens of texts, one cube each, at the attention outputs of all layers."""
    sites = find_sites(model, "attention_output")
    keys = [seen(model, sites, text) for text in texts]
    refusals = refusals or [(11, 12, 13)] * len(texts)
    return Near({site: torch.stack([key[site][-1] for key in keys]) for site in sites}, refusals, **more)


def padded(rows: Sequence[Sequence[int]], side: str = "left") -> dict[str, Tensor]:
    """Rows as a batch of ids and mask."""
    width = max(map(len, rows))
    gaps = [[PAD] * (width - len(row)) for row in rows]
    marks = [[0] * len(gap) for gap in gaps]
    left = side == "left"
    ids = [[*gap, *row] if left else [*row, *gap] for gap, row in zip(gaps, rows, strict=True)]
    mask = [
        [*mark, *[1] * len(row)] if left else [*[1] * len(row), *mark] for mark, row in zip(marks, rows, strict=True)
    ]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
