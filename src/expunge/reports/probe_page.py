"""One self-contained HTML page over a probe: which layers and neurons tell forget rows from retain rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.reports.numbers import NONE, count, number, percent, sign
from expunge.reports.shell import fill, write_page

_SCRIPTS = ("charts.js", "probe.js", "page.js")
_DRAWN = 6  # neurons of a role whose densities are drawn
_POOLING = {"all": "every token", "last": "the last token", "mean": "the mean over the tokens"}
_PART = {"all": "of the row", "prompt": "of the prompt", "answer": "of the answer"}


def write_probe_page(path: Path, facts: Mapping[str, Any]) -> None:
    """Write the page over ``facts``, the content of a ``probe.json``; an existing page is replaced in one step.

    Raises:
        OutputError: it cannot be written.
    """
    write_page(path, render_probe(facts))


def render_probe(facts: Mapping[str, Any]) -> str:
    """The page as text."""
    roles = [_role(role, facts["layers"]) for role in facts["roles"]]
    return fill(
        "probe.html.j2",
        _SCRIPTS,
        {"roles": [role["data"] for role in roles]},
        title="What tells forget from retain",
        lede=lede(facts),
        facts=[
            ("Model", facts["model"]),
            ("Rows", rows_in_words(facts)),
            ("Read", ", ".join(role["role"] for role in roles)),
            ("Values", values_in_words(facts)),
        ],
        threshold=f"{facts['threshold']:g}",
        top_share=percent(facts["top_share"]).replace(".0%", "%"),
        chance=chance_in_words(facts),
        roles=roles,
        constant=any(role["constant"] for role in facts["roles"]),
        left_out=facts["left_out"],
        listed=max((len(layer["furthest"]) for layer in facts["layers"]), default=0),
        groups=[_group(group, [role["role"] for role in roles]) for group in facts["groups"]],
        settings=_settings(facts),
    )


def lede(facts: Mapping[str, Any]) -> str:
    """The answer in one or two sentences, for the role that tells the two apart best."""
    roles = facts["roles"]
    best = max(roles, key=lambda role: (role["share"], role["median"] or 0))
    if len(roles) == 1:
        return _sentence(best, f"at {best['role']}", facts)
    first = f"Of {len(roles)} places in a layer, {best['role']} tells the two apart best."
    return f"{first} {_sentence(best, 'there', facts)}"


def _sentence(role: Mapping[str, Any], place: str, facts: Mapping[str, Any]) -> str:
    layers = [layer for layer in facts["layers"] if layer["role"] == role["role"]]
    found, chance = role["share"], role["by_chance"]
    said = (
        f"{percent(found)} of the {role['neurons']:,} neurons {place} are more than "
        f"{facts['threshold']:g} standard deviations apart"
    )
    if chance is not None:
        most = "at most " if facts["scope"]["pooling"] == "all" else ""
        said += f", no more than the {percent(chance)}" if found <= chance else f", against {most}{percent(chance)}"
        said += " by chance"
    if found and len(layers) > 1:
        best = max(layers, key=lambda layer: (layer["share"], layer["median"] or 0))
        said += f"; layer {layer_name(best['layer'])} has the largest share ({percent(best['share'])})"
    return f"{said}."


def rows_in_words(facts: Mapping[str, Any]) -> str:
    """``40 forget, 400 retain``, with those that were cut."""
    sides = facts["rows"]
    said = ", ".join(f"{side['rows']:,} {name}" for name, side in sides.items())
    cut = sum(side["cut"] for side in sides.values())
    return said + (f" ({cut:,} cut at {facts['scope']['max_length']} tokens)" if cut else "")


def values_in_words(facts: Mapping[str, Any]) -> str:
    """``every token of the row``."""
    return f"{_POOLING[facts['scope']['pooling']]} {_PART[facts['scope']['part']]}"


def chance_in_words(facts: Mapping[str, Any]) -> str:
    """What share to expect where forget and retain do not differ; empty where that is not known."""
    known = [role["by_chance"] for role in facts["roles"] if role["by_chance"] is not None]
    if not known:
        return ""
    least = "At most about" if facts["scope"]["pooling"] == "all" else "About"
    return (
        f"{least} {percent(max(known))} would be by chance alone, for so many rows that have nothing to do with each "
        "other; rows about one subject are alike, and chance then gives more."
    )


def layer_name(layer: int | None) -> str:
    return "outside" if layer is None else str(layer)


def neuron_name(neuron: Mapping[str, Any], experts: bool) -> str:
    """``layer 3, neuron 17``, with the site's own name where a layer has several."""
    site = f", {neuron['site']}" if experts or neuron["layer"] is None else ""
    layer = "" if neuron["layer"] is None else f"layer {neuron['layer']}, "
    return f"{layer}neuron {neuron['neuron']}{site}"


def _role(role: Mapping[str, Any], every: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    layers = [layer for layer in every if layer["role"] == role["role"]]
    several = any(len(layer["sites"]) > 1 for layer in layers)

    def drawn(neurons: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        kept = ("signed", "standardised", "forget", "retain")
        return [{"name": neuron_name(one, several), **{k: one[k] for k in kept}} for one in neurons[:_DRAWN]]

    def heat(layer: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [{"name": neuron_name(n, several), "standardised": n["standardised"]} for n in layer["furthest"]]

    figures = ("neurons", "share", "median", "largest", "top")
    data = {
        "role": role["role"],
        "by_chance": role["by_chance"],
        "furthest": drawn(role["furthest"]),
        "highest": drawn(role["highest"]),
        "layers": [
            {"name": layer_name(layer["layer"]), **{k: layer[k] for k in figures}, "furthest": heat(layer)}
            for layer in layers
        ],
    }
    places = max(len(data["furthest"]), len(data["highest"]))
    return {
        "role": role["role"],
        "rows": [_layer_row(layer) for layer in layers],
        "table": [_neuron_row(neuron, several) for neuron in role["furthest"]],
        "drawn": [data["furthest"][at]["name"] if at < len(data["furthest"]) else "" for at in range(places)],
        "data": data,
    }


def _layer_row(layer: Mapping[str, Any]) -> dict[str, str]:
    return {
        "name": f"layer {layer['layer']}" if layer["layer"] is not None else "outside the layers",
        "neurons": f"{layer['neurons']:,}",
        "share": percent(layer["share"]),
        "by_chance": percent(layer["by_chance"]),
        "median": number(layer["median"]),
        "largest": sign(layer["largest"]),
        "top": f"{layer['top']:,}",
        "constant": f"{layer['constant']:,}",
    }


def _neuron_row(neuron: Mapping[str, Any], several: bool) -> dict[str, str]:
    sides = {
        f"{side}{suffix}": number(neuron[side][figure])
        for side in ("forget", "retain")
        for suffix, figure in (("", "mean"), ("_deviation", "deviation"))
    }
    scores = {name: sign(neuron[name]) for name in ("standardised", "signed")}
    return {"name": neuron_name(neuron, several), **scores, **sides}


def _group(group: Mapping[str, Any], roles: Sequence[str]) -> dict[str, Any]:
    by_role = {one["role"]: one for one in group.get("roles", [])}
    cells = []
    for role in roles:
        found = by_role.get(role)
        cells += [percent(found["share"]), sign(found["largest"])] if found else [NONE, NONE]
    return {**group, "rows": count(group["rows"], "row"), "cells": cells, "left_out": group.get("left_out", "")}


def _settings(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    target = facts["target"]
    pairs = [("part", facts["scope"]["part"]), ("pooling", facts["scope"]["pooling"])]
    pairs += [("max_length", facts["scope"]["max_length"]), ("template", facts["scope"]["template"])]
    pairs += [("model", facts["model"]), ("dtype", target["dtype"]), ("weights", target["weights"])]
    pairs += [("quantization", target["quantization"])] if target.get("quantization") else []
    return [(name, str(value)) for name, value in pairs]
