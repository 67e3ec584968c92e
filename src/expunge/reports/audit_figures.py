"""The figures of what audits found: scores over steps, layers or ways of asking, and recovery by layer and component.

They are read by their keys alone, whatever audit wrote them; what does not have the form of a figure is not drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expunge.reports.load import finite, is_number
from expunge.reports.names import set_title
from expunge.reports.numbers import NONE, number, stderr

_LOG = 16  # times the smallest value, from which on an axis is logarithmic
_AXES = {
    "leakage": "words that slip out",
    "rouge": "ROUGE-L",
    "told": "answers given whole",
    "leaked": "answers that leak",
}
COMPONENTS = {
    "mlp": "MLP keys",
    "attention": "attention",
    "both": "both",
    "residual": "hidden states",
    "values": "value vectors",
    "keys": "MLP gates and first projections",
    "norms": "norms",
    "outside": "embeddings, last norm and head",
    "all": "all parameters",
}
"""What is changed in the model, by the name that audits give it, in the words of their sentences: ``mlp`` are
activations, ``keys`` parameters."""


@dataclass(frozen=True)
class Figure:
    """A figure: ``kind`` is the chart's, ``index`` its place in the page's data, ``alt`` says it in words; ``head`` and
    ``rows`` are the same in numbers. ``models`` are those that it tells apart by mark and colour."""

    kind: str
    index: int
    title: str
    alt: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    models: tuple[str, ...] = ()


def curve_figures(at: int, entry: Mapping[str, Any], figures: list[dict[str, Any]]) -> Iterator[Figure]:
    """A figure for each of the entry's ``curves``; what it draws is added to ``figures``."""
    curves = entry.get("curves")
    for curve in curves if isinstance(curves, (list, tuple)) else ():
        series = list(_series(curve.get("series"))) if isinstance(curve, Mapping) else []
        if not series:
            continue
        places = list(dict.fromkeys(point[0] for one in series for point in one["points"]))
        named = any(isinstance(place, str) for place in places)
        title, x, y = (str(curve.get(key) or "") for key in ("title", "x", "y"))
        log = not named and min(places) > 0 and max(places) >= _LOG * min(places)
        index = len(figures)
        figures.append(
            {
                "run": at,
                "x": x,
                "y": _AXES.get(y, y.replace("_", " ")),
                "names": [str(place) for place in places] if named else None,
                "log": log,
                "series": [{**one, "points": [[_place(p[0], named), *p[1:]] for p in one["points"]]} for one in series],
            }
        )
        models = [one["model"] for one in series]
        values = [{p[0]: p for p in one["points"]} for one in series]
        yield Figure(
            "auditNamed" if named else "auditCurve",
            index,
            title,
            f"{title}: {y} by {x}, for {_listed(models)}. The numbers are in this audit's tables.",
            (x.capitalize(), *(set_title(model) for model in models)),
            tuple((short_number(place), *(_value(one.get(place)) for one in values)) for place in places),
            tuple(models),
        )


def _place(place: Any, named: bool) -> Any:
    return str(place) if named else place


def _series(series: Any) -> Iterator[dict[str, Any]]:
    """The models' points ``[x, y, standard error or None]`` that can be drawn."""
    for model, points in series.items() if isinstance(series, Mapping) else ():
        kept = []
        for point in points if isinstance(points, (list, tuple)) else ():
            if not isinstance(point, (list, tuple)) or len(point) < 2:
                continue
            value = finite(point[1])
            if value is not None and (isinstance(point[0], str) or finite(point[0]) is not None):
                kept.append([point[0], value, finite(point[2]) if len(point) > 2 else None])
        if kept:
            yield {"model": str(model), "points": kept}


def heat_figures(at: int, entry: Mapping[str, Any], title: str, figures: list[dict[str, Any]]) -> Iterator[Figure]:
    """Knowledge recovery by component and window, a figure for each model: ``{model: {component: [[layer or None,
    score, low, high], ..]}}``. What they draw is added to ``figures``."""
    details = entry.get("details")
    heat = details.get("heat") if isinstance(details, Mapping) else None
    for model, components in heat.items() if isinstance(heat, Mapping) else ():
        read = (
            {str(name): _cells(cells) for name, cells in components.items()} if isinstance(components, Mapping) else {}
        )
        read = {name: cells for name, cells in read.items() if cells}
        if not read:
            continue
        layers = sorted({layer for cells in read.values() for layer in cells if layer is not None})
        windows: list[int | None] = [*layers, *([None] if any(None in cells for cells in read.values()) else [])]
        index = len(figures)
        names = [COMPONENTS.get(name, name.replace("_", " ")) for name in read]
        figures.append(
            {
                "run": at,
                "x": "layer (middle of the window)",
                "windows": [_window(layer) for layer in windows],
                "rows": [
                    {"name": name, "cells": [cells.get(layer) for layer in windows]}
                    for name, cells in zip(names, read.values(), strict=True)
                ],
            }
        )
        most = [_most(name, cells) for name, cells in zip(names, read.values(), strict=True)]
        yield Figure(
            "auditHeat",
            index,
            f"Knowledge recovered in the {model} model",
            f"{title}: knowledge recovery score of the {model} model by layer and component; {'; '.join(most)}. The "
            "numbers are in this audit's tables.",
            ("Component", *(_window(layer) for layer in windows)),
            tuple(
                (name, *(_value([None, *(cells.get(layer) or [None])][:2]) for layer in windows))
                for name, cells in zip(names, read.values(), strict=True)
            ),
        )


def _cells(cells: Any) -> dict[int | None, list[float | None]]:
    """``[score, low, high]`` by the layer in the middle of a window; None: no window of layers."""
    found: dict[int | None, list[float | None]] = {}
    for one in cells if isinstance(cells, (list, tuple)) else ():
        if isinstance(one, (list, tuple)) and len(one) >= 2 and (one[0] is None or is_number(one[0])):
            low, high = (finite(one[place]) if len(one) > place else None for place in (2, 3))
            found[None if one[0] is None else int(one[0])] = [finite(one[1]), low, high]
    return found


def _window(layer: int | None) -> str:
    return "no layer" if layer is None else f"layer {layer}"


def _most(name: str, cells: Mapping[int | None, list[float | None]]) -> str:
    known = {layer: values[0] for layer, values in cells.items() if values[0] is not None}
    if not known:
        return f"{name} not defined"
    best = max(known, key=lambda layer: known[layer] or 0.0)
    return f"{name} at most {number(known[best], 2)}" + ("" if best is None else f", at layer {best}")


def _value(point: Sequence[Any] | None) -> str:
    if point is None or point[1] is None:
        return NONE
    error = point[2] if len(point) > 2 else None
    return number(float(point[1])) + (f" {stderr(error)}" if error is not None else "")


def short_number(value: Any) -> str:
    """A number as short as it can be read: 5, 0.8, 0.03768."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    return every[0] if len(every) == 1 else f"{', '.join(every[:-1])} and {every[-1]}"
