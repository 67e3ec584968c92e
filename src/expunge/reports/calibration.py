"""What an erasure's manifest says of how it was calibrated and where it acts: tables, words, and what the page draws.

It is found by the keys of the manifest's details, whatever method wrote them; what is not there is not shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from expunge.reports.load import Run, finite, is_number
from expunge.reports.numbers import count, number, percent, percent_at_least, percent_at_most

_MODES = {"generate": "In generation", "score": "In scoring"}
_CALIBRATED = {"scale", "level", "k_star", "max_scale", "decides", "bounds"}
_BOUND = {"group", "rows", "bound", "observed", "upper", "scale"}
_CURVE = {"layers", "scale", "detection", "false_abstention", "area"}
_BOX = {"site", "layer", "neurons", "k_star", "scale", "log_volume_per_neuron", "distance", "largest_distance"}
_LISTED_BOXES = 100  # a mixture of experts has thousands
OUTSIDE = "outside the layers"


@dataclass(frozen=True)
class BoundRow:
    """What is known of one group of calibration rows, as text; ``decides``: h is what this group allows."""

    name: str
    rows: str
    bound: str
    observed: str
    upper: str
    scale: str
    decides: bool


@dataclass(frozen=True)
class ModeBounds:
    """One way of running the model: the level asked for, the h in use, what decided it, and all groups' bounds."""

    title: str
    level: str
    scale: str
    decided: str
    rows: tuple[BoundRow, ...]


@dataclass(frozen=True)
class Detection:
    """How many forget rows the h in use detects: the share, or at least that where ``exact`` is not set.

    A curve has a part of its points: between two of them the share is at least the first one's.
    """

    share: float
    exact: bool
    rows: int | None
    unseen: bool

    @property
    def words(self) -> str:
        """``98% of 60 unseen forget rows``."""
        share = percent(self.share) if self.exact else f"at least {percent_at_least(self.share)}"
        unseen = "unseen " if self.unseen else ""
        return share + (f" of {count(self.rows, f'{unseen}forget row')}" if self.rows else f" of {unseen}forget rows")


def bounds(details: Mapping[str, Any]) -> tuple[ModeBounds, ...]:
    """The table "False abstention": a part for generation and one for scoring; nothing where none was calibrated."""
    return tuple(_mode(mode, entry) for mode, entry in _calibrations(details).items())


def _mode(mode: str, entry: Mapping[str, Any]) -> ModeBounds:
    decides = entry["decides"]
    if decides is None:
        decided = "the cap" if entry["max_scale"] is None else f"the cap, {entry['max_scale']:g} × k*"
    else:
        decided = f"group {decides}" if decides else "all rows"
    share = entry["scale"] / entry["k_star"] if entry["k_star"] else None
    return ModeBounds(
        title=_MODES.get(mode, mode),
        level=_level(entry),
        scale=number(entry["scale"]) + (f" ({number(share)} × k*)" if share is not None else ""),
        decided=decided,
        rows=tuple(
            BoundRow(
                name=one["group"] or "All rows",
                rows=number(one["rows"]),
                bound=percent_at_most(one["bound"]),
                observed=percent(one["observed"]),
                upper=percent_at_most(one["upper"]),
                scale=number(one["scale"]),
                decides=one["group"] == decides,
            )
            for one in entry["bounds"]
        ),
    )


def summary(run: Run) -> str:
    """What was calibrated in one sentence, for the terminal; empty where nothing was."""
    details = run.details
    found = _calibrations(details)
    if not found:
        return ""
    entry = found.get("generate") or next(iter(found.values()))
    first, groups = entry["bounds"][0], entry["bounds"][1:]
    said = ("First seed: f" if run.seeds else "F") + (
        f"alse abstention at most {_level(entry)} by calibration on {count(first['rows'], 'row')} "
        f"(95% sure: below {percent_at_most(first['upper'])})"
    )
    if groups:
        most = percent_at_most(max(one["upper"] for one in groups))
        said += f", and in each of {len(groups)} groups (95% sure: below {most})"
    detected = detection(details)
    return said + (f"; detection {detected.words}." if detected else ".")


def detection(details: Mapping[str, Any]) -> Detection | None:
    """What the h of generation detects, by the curve of the layers in use; None where there is no such curve."""
    scale, curve = _scale(details), _used_curve(details)
    if scale is None or curve is None:
        return None
    below = [place for place, value in enumerate(curve["scale"]) if value <= scale]
    if not below:
        return None
    last = below[-1]
    share = curve["detection"][last]
    after = curve["detection"][last + 1] if last + 1 < len(curve["detection"]) else share
    rows = _curve_rows(details).get("forget")
    made = details.get("forget_rows")
    return Detection(share, after == share or curve["scale"][last] == scale, rows, unseen=rows != made)


def drawn(details: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the page's scripts draw, as JSON; None where there is nothing.

    ``curves``: a line each, ``falsely`` and ``detected`` by h (``scale``), ``by_group`` the first by group; ``mark``:
    where the h in use lies; ``boxes`` by site; ``neurons``: how many were chosen in each layer.
    """
    entry = _calibrations(details).get("generate")
    used, curves = _used_curve(details), _curves(details)
    detected = detection(details)
    observed = entry["bounds"][0]["observed"] if entry else None
    found = {
        "curves": [_curve(one, used is one) for one in curves],
        "level": entry["level"] if entry else None,
        "mark": {"falsely": observed, "detected": detected.share} if detected and observed is not None else None,
        "scale": _scale(details),
        "boxes": [_box(one) for one in _boxes(details)],
        "neurons": _neurons(details),
    }
    return found if found["curves"] or found["boxes"] or found["neurons"] else None


@dataclass(frozen=True)
class Shown:
    """What the page shows of one run's erasure. ``at`` is the run's position, ``index`` that of what is drawn."""

    at: int
    index: int | None
    first_seed: bool
    modes: tuple[ModeBounds, ...]
    detection: str
    curves: tuple[str, ...]
    rows: str
    boxes: tuple[tuple[str, ...], ...]
    several_boxes: bool
    neurons: str
    by_hand: str

    @property
    def calibrated(self) -> bool:
        """Whether there is something for the section on calibration."""
        return bool(self.modes or self.curves or self.boxes)


def shown(runs: list[Run]) -> tuple[list[Shown], list[dict[str, Any]]]:
    """Every run that has any of it, and beside them what is drawn, for the page's scripts."""
    found: list[Shown] = []
    figures: list[dict[str, Any]] = []
    for at, run in enumerate(runs):
        details = run.details
        modes, figure = bounds(details), drawn(details)
        if not modes and figure is None:
            continue
        index = None
        if figure is not None:
            index = len(figures)
            figures.append(figure)
        found.append(_shown(at, index, run, modes, figure or {}))
    return found, figures


def _shown(at: int, index: int | None, run: Run, modes: tuple[ModeBounds, ...], figure: Mapping[str, Any]) -> Shown:
    details = run.details
    detected, boxes, scale = detection(details), _boxes(details), _scale(details)
    rows = _curve_rows(details)
    return Shown(
        at=at,
        index=index,
        first_seed=bool(run.seeds),
        modes=modes,
        detection=detected.words if detected else "",
        curves=tuple(one["name"] for one in figure.get("curves", ())),
        rows=" and ".join(f"{rows[side]:,} {side} rows" for side in ("forget", "retain") if side in rows),
        boxes=tuple(map(_box_row, boxes)) if len(boxes) <= _LISTED_BOXES else (),
        several_boxes=len(boxes) > 1,
        neurons=count(sum(one["count"] for one in figure["neurons"]), "neuron") if figure.get("neurons") else "",
        by_hand=number(scale) if scale is not None and not modes else "",
    )


def _box_row(box: Mapping[str, Any]) -> tuple[str, ...]:
    name = OUTSIDE if box["layer"] is None else f"layer {box['layer']}"
    keys = ("k_star", "scale", "distance", "largest_distance", "log_volume_per_neuron")
    return (name, number(box["neurons"]), *(number(finite(box[key])) for key in keys))


def _level(entry: Mapping[str, Any]) -> str:
    return f"{100 * entry['level']:g}%"


def _curve(curve: Mapping[str, Any], used: bool) -> dict[str, Any]:
    groups = curve.get("groups") or {}
    return {
        "name": _curve_name(curve["layers"]),
        "used": used,
        "area": _short(curve["area"]),
        "scale": list(map(_short, curve["scale"])),
        "detected": list(map(_short, curve["detection"])),
        "falsely": list(map(_short, curve["false_abstention"])),
        "by_group": {name: list(map(_short, shares)) for name, shares in groups.items()},
    }


def _curve_name(layers: list[int | None]) -> str:
    if len(layers) > 1:
        return "all layers"
    return OUTSIDE if layers[0] is None else f"layer {layers[0]}"


def _box(box: Mapping[str, Any]) -> dict[str, Any]:
    names = {"k_star": "k_star", "distance": "mean", "largest_distance": "largest", "log_volume_per_neuron": "volume"}
    return {
        "layer": box["layer"],
        "site": str(box["site"]),
        "neurons": box["neurons"],
        **{name: _short(box[key]) for key, name in names.items()},
    }


def _neurons(details: Mapping[str, Any]) -> list[dict[str, Any]]:
    """In the order of the layers, those between them that have none included."""
    found = details.get("neurons")
    if not isinstance(found, Mapping) or not found or not all(map(is_number, found.values())):
        return []
    numbered = {int(name): chosen for name, chosen in found.items() if str(name).isdecimal()}
    named = [{"name": str(name), "count": chosen} for name, chosen in found.items() if not str(name).isdecimal()]
    layers = range(max(numbered) + 1) if numbered else ()
    return [{"name": str(layer), "count": numbered.get(layer, 0)} for layer in layers] + named


def _calibrations(details: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """By mode; whatever else a method may keep under the key is no calibration."""
    found = details.get("calibration")
    return {
        str(mode): entry
        for mode, entry in (found.items() if isinstance(found, Mapping) else ())
        if _has(entry, _CALIBRATED) and entry["bounds"] and _all_have(entry["bounds"], _BOUND)
    }


def _curves(details: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = details.get("curves")
    return found if isinstance(found, list) and _all_have(found, _CURVE) else []


def _boxes(details: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = details.get("boxes")
    return found if isinstance(found, list) and _all_have(found, _BOX) else []


def _used_curve(details: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The curve of just the layers that the erasure looks at."""
    layers = details.get("layers")
    return next((one for one in _curves(details) if one["layers"] == layers), None)


def _scale(details: Mapping[str, Any]) -> float | None:
    """The h of generation."""
    scales = details.get("scales")
    return finite(scales.get("generate")) if isinstance(scales, Mapping) else None


def _curve_rows(details: Mapping[str, Any]) -> dict[str, int]:
    found = details.get("curve_rows")
    return {side: rows for side, rows in found.items() if isinstance(rows, int)} if isinstance(found, Mapping) else {}


def _has(value: object, keys: set[str]) -> bool:
    return isinstance(value, Mapping) and keys <= value.keys()


def _all_have(values: object, keys: set[str]) -> bool:
    return isinstance(values, list) and all(_has(value, keys) for value in values)


def _short(value: object) -> float | None:
    """To four digits, which is all that a figure shows; None where there is no finite number."""
    number = finite(value)
    return number if not number else round(number, 3 - math.floor(math.log10(abs(number))))
