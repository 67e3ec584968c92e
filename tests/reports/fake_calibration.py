"""Details of erasures that act on activations, made by hand or drawn, as their manifests have them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from .fake_runs import write_json, write_run


def bound(group: str, rows: int, rank: int, observed: float, upper: float, scale: float) -> dict[str, Any]:
    return {
        "group": group,
        "rows": rows,
        "rank": rank,
        "bound": rank / (rows + 1),
        "observed": observed,
        "upper": upper,
        "scale": scale,
    }


def calibrated(scale: float, decides: str | None, *bounds: dict[str, Any], level: float = 0.05) -> dict[str, Any]:
    return {
        "scale": scale,
        "level": level,
        "k_star": 8.0,
        "max_scale": 1.0,
        "decides": decides,
        "bounds": list(bounds),
        "capped": decides is None,
        "share_of_k_star": scale / 8,
    }


def box(layer: int | None, distance: float | None = 2.0, site: str = "mlp.down_proj:input") -> dict[str, Any]:
    return {
        "site": f"layers.{layer}.{site}",
        "layer": layer,
        "neurons": 352,
        "neurons_that_do_not_vary": 0,
        "k_star": 8.0 - 0.125 * (layer or 0),
        "scale": 6.0,
        "log_volume": 352 * (1.25 - 0.125 * (layer or 0)),
        "log_volume_per_neuron": 1.25 - 0.125 * (layer or 0),
        "distance": distance,
        "largest_distance": None if distance is None else 6 * distance,
    }


def curve(layers: list[int | None], *points: tuple[float, float, float], **groups: list[float]) -> dict[str, Any]:
    scale, detection, falsely = (list(values) for values in zip(*points, strict=True))
    return {
        "layers": layers,
        "scale": scale,
        "detection": detection,
        "false_abstention": falsely,
        "groups": groups,
        "area": 0.96875,
    }


def details() -> dict[str, Any]:
    """Two layers, of which both are in use: 80 rows in two groups, of which ``code`` decides in generation."""
    every = bound("", 80, 4, 0.0125, 0.11321, 7.5)
    return {
        "layers": [0, 1],
        "k_star": 8.0,
        "forget_rows": 160,
        "scales": {"generate": 6.0, "score": 8.0},
        "calibration": {
            "generate": calibrated(
                6.0, "code", every, bound("code", 40, 2, 0.025, 0.1132, 6.0), bound("maths", 40, 2, 0.0, 0.1132, 9.0)
            ),
            "score": calibrated(8.0, None, every | {"observed": 0.0}),
        },
        "curve_rows": {"forget": 40, "retain": 80},
        "curves": [
            curve(
                [0, 1],
                (0.0, 0.0, 0.0),
                (5.0, 0.975, 0.0),
                (7.0, 1.0, 0.05),
                (9.0, 1.0, 1.0),
                code=[0.0, 0.0, 0.1, 1.0],
                maths=[0.0, 0.0, 0.0, 1.0],
            ),
            curve([0], (0.0, 0.0, 0.0), (3.0, 0.5, 0.05), (9.0, 1.0, 1.0)),
            curve([1], (0.0, 0.0, 0.0), (4.0, 0.75, 0.025), (9.0, 1.0, 1.0)),
        ],
        "boxes": [box(0), box(1, 3.0)],
        "seconds": 1.5,
    }


def drawn_details(layers: int, groups: int = 0, used: list[int] | None = None, experts: int = 1) -> dict[str, Any]:
    """Of a large model: random scores, the deeper the layer the better."""
    draw = random.Random(layers)
    names = [f"group {number}" for number in range(groups)]
    used = list(range(layers)) if used is None else used

    def of(some: list[int], better: float) -> dict[str, Any]:
        points = [(0.0, 0.0, 0.0)]
        for at in range(1, 40):
            share = at / 39
            detected, falsely = share ** (1 / better), share**better
            points.append((20 * share, detected, round(500 * falsely) / 500))
        shares = {name: [min(1.0, falsely * draw.uniform(0.5, 1.5)) for _, _, falsely in points] for name in names}
        return curve(list(some), *points, **shares)

    every = bound("", 500, 5, 0.008, 0.0182, 9.0)
    parts = [bound(name, 100, 1, 0.01, 0.0296, 8.0 + at) for at, name in enumerate(names)]
    first = names[0] if names else ""
    return details() | {
        "layers": used,
        "calibration": {mode: calibrated(8.0, first, every, *parts, level=0.01) for mode in ("generate", "score")},
        "scales": {"generate": 8.0, "score": 8.0},
        "curve_rows": {"forget": 60, "retain": 500},
        "curves": [of(list(range(layers)), 6), *(of([layer], 1.5 + 4 * layer / layers) for layer in range(layers))],
        "boxes": [
            box(layer, draw.uniform(1, 3), f"experts.{number}:input") for layer in used for number in range(experts)
        ],
    }


def write_erasure(folder: Path, facts: dict[str, Any], *, apart: bool = True) -> None:
    """The manifest of a run's erasure; ``apart``: with what is only drawn in a file of its own."""
    file = folder / "erasure" / "manifest.json"
    manifest = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"schema": 1}
    drawn = {key: facts[key] for key in ("curves", "boxes") if apart and key in facts}
    manifest["details"] = {key: value for key, value in facts.items() if key not in drawn}
    write_json(file, manifest)
    if drawn:
        write_json(file.with_name("calibration.json"), {"schema": 1, **drawn})


def write_calibrated(folder: Path, facts: dict[str, Any] | None = None, *, apart: bool = True) -> Path:
    """A finished run whose erasure has ``facts`` in its manifest, by default :func:`details`."""
    write_run(folder)
    write_erasure(folder, details() if facts is None else facts, apart=apart)
    return folder
