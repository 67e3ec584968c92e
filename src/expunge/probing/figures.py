"""The figures of a separation, as ``probe.json`` holds them: by role and layer, by site, and neuron by neuron."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from expunge.models.roles import Site
from expunge.probing.separation import Separation, SiteSeparation, by_chance, ranked

THRESHOLD = 0.5  # standard deviations from which a neuron counts as one that separates
TOP_SHARE = 0.03  # of a role's neurons, the share whose layers are counted (what neuron_adjust takes by default)
LISTED = 20  # neurons that are named, of each layer and of each role


def figures(found: Separation) -> dict[str, Any]:
    """``roles``, ``layers`` and ``left_out`` (see docs/probing.md for the keys), in the order of the sites.

    A site that has no role goes by its name within the layer, the experts of one layer together.
    """
    by_role: dict[str, list[SiteSeparation]] = {}
    for one in found.sites:
        by_role.setdefault(role_of(one.site), []).append(one)
    roles, layers = [], []
    for role, sites in by_role.items():
        chosen = ranked([one.signed for one in sites], max(1, round(TOP_SHARE * _neurons(sites))))
        furthest = ranked([one.standardised.abs() for one in sites], LISTED)
        roles.append(
            {
                "role": role,
                **_figures(sites, found.rows),
                "top": len(chosen),
                "highest": [_neuron(sites[at], neuron) for at, neuron in chosen[:LISTED]],
                "furthest": [_neuron(sites[at], neuron) for at, neuron in furthest],
            }
        )
        counts = Counter(sites[at].site for at, _ in chosen)
        by_layer: dict[int | None, list[SiteSeparation]] = {}
        for one in sites:
            by_layer.setdefault(one.site.layer, []).append(one)
        for layer, here in by_layer.items():
            order = ranked([one.standardised.abs() for one in here], LISTED)
            layers.append(
                {
                    "role": role,
                    "layer": layer,
                    **_figures(here, found.rows),
                    "top": sum(counts[one.site] for one in here),
                    "sites": [_site(one, found.rows, counts[one.site]) for one in here],
                    "furthest": [_neuron(here[at], neuron) for at, neuron in order],
                }
            )
    left_out = [{"site": site.key, "reason": reason} for site, reason in found.left_out.items()]
    return {"roles": roles, "layers": layers, "left_out": left_out}


def role_of(site: Site) -> str:
    """The site's role, or, found by a pattern, its name within the layer."""
    if site.role is not None:
        return site.role
    name = f"{site.module}:{site.reads}"
    return name if site.layer is None else name.partition(f".{site.layer}.")[2] or f"layer:{site.reads}"


def _neurons(sites: Sequence[SiteSeparation]) -> int:
    return sum(one.width for one in sites)


def _figures(sites: Sequence[SiteSeparation], rows: tuple[int, int]) -> dict[str, Any]:
    """``largest`` keeps its sign, ``median`` is that of the sizes. ``by_chance`` takes each row for one value, since
    tokens of a row are alike: what would be found at most where every token counts."""
    neurons = _neurons(sites)
    chances = [by_chance(THRESHOLD, min(one.forget.count, rows[0]), min(one.retain.count, rows[1])) for one in sites]
    known = [one.width * chance for one, chance in zip(sites, chances, strict=True) if chance is not None]
    sizes = torch.cat([one.standardised.abs() for one in sites])
    order = ranked([one.standardised.abs() for one in sites], 1)
    return {
        "neurons": neurons,
        "share": sum(one.beyond(THRESHOLD) for one in sites) / neurons,
        "by_chance": sum(known) / neurons if len(known) == len(sites) else None,
        "median": float(sizes.nanmedian()) if order else None,
        "largest": float(sites[order[0][0]].standardised[order[0][1]]) if order else None,
        "constant": sum(int(one.constant.sum()) for one in sites),
    }


def _site(one: SiteSeparation, rows: tuple[int, int], top: int) -> dict[str, Any]:
    values = {"forget": one.forget.count, "retain": one.retain.count}
    return {"site": one.site.key, "values": values, **_figures([one], rows), "top": top}


def _neuron(one: SiteSeparation, neuron: int) -> dict[str, Any]:
    difference, score = float(one.signed[neuron]), one.standardised[neuron]
    forget, retain = one.deviations
    return {
        "site": one.site.key,
        "layer": one.site.layer,
        "neuron": neuron,
        "signed": difference,
        "absolute": abs(difference),
        "standardised": None if torch.isnan(score) else float(score),
        "forget": {"mean": float(one.forget.mean[neuron]), "deviation": float(forget[neuron])},
        "retain": {"mean": float(one.retain.mean[neuron]), "deviation": float(retain[neuron])},
    }
