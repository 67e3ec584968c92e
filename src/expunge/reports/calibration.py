"""What an erasure's manifest says of how it was calibrated and where it acts: tables, words, and what the page draws.

It is found by the keys of the manifest's details, whatever method wrote them; what is not there is not shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from expunge.reports.load import Run, finite, is_number
from expunge.reports.numbers import count, number, percent, percent_at_least, percent_at_most

_MODES = {"generate": "In generation", "score": "In scoring"}
_CALIBRATED = ("scale", "level", "k_star")
_BOUND = ("rows", "bound", "observed", "upper", "scale")
_SERIES = ("scale", "detection", "false_abstention")
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
        decided = "the cap" if entry["max_scale"] is None else f"the cap of {entry['max_scale']:g} k*"
    else:
        decided = f"the group “{decides}”" if decides else "all rows"
    share = entry["scale"] / entry["k_star"] if entry["k_star"] else None
    return ModeBounds(
        title=_MODES.get(mode, mode),
        level=_level(entry),
        scale=number(entry["scale"]) + (f" ({number(share)} k*)" if share is not None else ""),
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
    what = "First seed: false abstention" if run.seeds else "False abstention"
    said = (
        f"{what} at most {_level(entry)} by calibration on {count(first['rows'], 'row')} "
        f"(95% sure: below {percent_at_most(first['upper'])})"
    )
    if groups:
        most = percent_at_most(max(one["upper"] for one in groups))
        said += f", and in each of {len(groups)} groups (95% sure: below {most})"
    detected = detection(details)
    return said + (f"; detection {detected.words}." if detected else ".")


def detection(details: Mapping[str, Any]) -> Detection | None:
    """What the h of generation detects: as it was recorded, else by the curve of the layers in use; None where there is
    neither."""
    recorded = details.get("detected")
    if isinstance(recorded, Mapping) and is_number(recorded.get("share")) and is_number(recorded.get("rows")):
        return Detection(float(recorded["share"]), True, int(recorded["rows"]), bool(recorded.get("unseen")))
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
    layers: str
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
            figures.append({"run": at, **figure})
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
        layers=_layers_in_words(details),
        detection=detected.words if detected else "",
        curves=tuple(one["name"] for one in figure.get("curves", ())),
        rows=" and ".join(f"{rows[side]:,} {side} rows" for side in ("forget", "retain") if side in rows),
        boxes=_box_rows(boxes) if len(boxes) <= _LISTED_BOXES else (),
        several_boxes=len(boxes) > 1,
        neurons=count(sum(one["count"] for one in figure["neurons"]), "neuron") if figure.get("neurons") else "",
        by_hand=number(scale) if scale is not None and not modes else "",
    )


def _layers_in_words(details: Mapping[str, Any]) -> str:
    """The layers that the erasure looks at; empty where it does not say."""
    layers, used = details.get("layers"), _used_curve(details)
    if not isinstance(layers, list) or not layers:
        return ""
    if used is not None and len(layers) == max(len(one["layers"]) for one in _curves(details)) > 1:
        return "all layers"
    return _layer_name(layers[0]) if len(layers) == 1 else f"layers {', '.join(map(str, layers))}"


def _box_rows(boxes: list[Mapping[str, Any]]) -> tuple[tuple[str, ...], ...]:
    """Name and numbers of each box; those of experts, of which a layer has several, have their site's name."""
    several = len({box["layer"] for box in boxes}) < len(boxes)
    keys = ("k_star", "scale", "distance", "largest_distance", "log_volume_per_neuron")
    return tuple(
        (
            str(box["site"]) if several else _layer_name(box["layer"]),
            number(box["neurons"]),
            *(number(finite(box[key])) for key in keys),
        )
        for box in boxes
    )


def _layer_name(layer: int | None) -> str:
    return OUTSIDE if layer is None else f"layer {layer}"


def _level(entry: Mapping[str, Any]) -> str:
    return f"{100 * entry['level']:g}%"


def _curve(curve: Mapping[str, Any], used: bool) -> dict[str, Any]:
    groups = curve.get("groups") or {}
    return {
        "name": "all layers" if len(curve["layers"]) > 1 else _layer_name(curve["layers"][0]),
        "used": used,
        "area": _short(curve["area"]),
        "scale": list(map(_short, curve["scale"])),
        "detected": list(map(_short, curve["detection"])),
        "falsely": list(map(_short, curve["false_abstention"])),
        "by_group": {name: list(map(_short, shares)) for name, shares in groups.items()},
    }


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
    entries = found.items() if isinstance(found, Mapping) else ()
    return {str(mode): entry for mode, entry in entries if _is_calibration(entry)}


def _is_calibration(entry: object) -> bool:
    if not isinstance(entry, Mapping) or not {"max_scale", "decides"} <= entry.keys():
        return False
    listed = entry.get("bounds")
    if not _has_numbers(entry, _CALIBRATED) or not isinstance(listed, list) or not listed:
        return False
    return all(isinstance(one, Mapping) and "group" in one and _has_numbers(one, _BOUND) for one in listed)


def _curves(details: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = details.get("curves")
    return found if isinstance(found, list) and all(map(_is_curve, found)) else []


def _is_curve(curve: object) -> bool:
    if not isinstance(curve, Mapping) or not curve.get("layers") or "area" not in curve:
        return False
    series = [curve.get(name) for name in _SERIES]
    lists = [one for one in series if isinstance(one, list) and one and all(map(is_number, one))]
    return len(lists) == len(series) and len(set(map(len, lists))) == 1


def _boxes(details: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = details.get("boxes")
    there = isinstance(found, list) and all(isinstance(one, Mapping) and one.keys() >= _BOX for one in found)
    return found if there and found else []


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


def _has_numbers(entry: Mapping[str, Any], keys: Iterable[str]) -> bool:
    return all(is_number(entry.get(key)) for key in keys)


def _short(value: object) -> float | None:
    """To four digits, which is all that a figure shows; None where there is no finite number."""
    number = finite(value)
    return number if not number else round(number, 3 - math.floor(math.log10(abs(number))))
