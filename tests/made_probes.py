"""Probe results made from values, without a model: what the figures and their pages are tested on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from expunge.models.fingerprint import Fingerprint
from expunge.models.roles import Site
from expunge.probing.figures import THRESHOLD, TOP_SHARE, figures
from expunge.probing.result import ProbeResult, Scope
from expunge.probing.separation import separation
from expunge.probing.statistics import Moments

SITES = tuple(Site(f"layers.{layer}.act", "input", "mlp_activation", layer, 2) for layer in range(2))
_TARGET = Fingerprint("config", "tokenizer", "weights", "memory", "float32", source="tiny")


def probe(values: Mapping[Site, Sequence[Sequence[float]]], rows: int = 40) -> ProbeResult:
    """A result whose sites saw these values, a list for each token; none for an expert that was passed over."""
    moments = {
        site: Moments.of(torch.tensor(some, dtype=torch.float64)) if some else Moments.none(site.width or 0)
        for site, some in values.items()
    }
    return ProbeResult(moments, Scope("all", "all", rows, 0, 512, "plain"), _TARGET, "values")


def drawn_facts(
    layers: int = 3, width: int = 30, roles: Sequence[str] = ("mlp_activation",), name: str = "tiny"
) -> dict[str, Any]:
    """The content of a ``probe.json`` over normal values: neuron n of layer k differs by (n % 7 - 3) (k + 1) / 4 of
    its deviation; the last neuron never varies."""
    generator = torch.Generator().manual_seed(0)
    sites = [Site(f"layers.{k}.{role}", "input", role, k, width) for role in roles for k in range(layers)]  # type: ignore[arg-type]

    def side(count: int, factor: float) -> ProbeResult:
        moments = {}
        for site in sites:
            values = torch.randn((count, width), generator=generator)
            values += factor * (torch.arange(width) % 7 - 3) * ((site.layer or 0) + 1) / 4
            values[:, -1] = 1
            moments[site] = Moments.of(values)
        target = Fingerprint("config", "tokenizer", "weights", "memory", "float32", source=name)
        return ProbeResult(moments, Scope("last", "prompt", count, 0, 512, "plain"), target, "values")

    forget, retain = side(40, 1), side(400, 0)
    return {
        "schema": 1,
        "model": name,
        "expunge": "0",
        "target": asdict(forget.target),
        "scope": {"pooling": "last", "part": "prompt", "max_length": 512, "template": "plain"},
        "rows": {"forget": {"rows": 40, "cut": 0}, "retain": {"rows": 400, "cut": 3}},
        "threshold": THRESHOLD,
        "top_share": TOP_SHARE,
        **figures(separation(forget, retain)),
        "groups": [],
    }
