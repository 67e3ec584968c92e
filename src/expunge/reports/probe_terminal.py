"""A probe in a terminal: tables that read well at 80 columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from expunge.reports.numbers import number, percent, sign
from expunge.reports.probe_page import layer_name
from expunge.reports.terminal import plain_table

if TYPE_CHECKING:
    from rich.table import Table

_LAYERS = 32
_NEURONS = 8
_BAR = 12
_SITE_WIDTH = 24


def layers_table(facts: Mapping[str, Any], role: str) -> Table:
    """A layer a row, the largest shares only where there are many layers. ``facts`` is the content of
    ``probe.json``."""
    from rich.text import Text

    layers = [layer for layer in facts["layers"] if layer["role"] == role]
    shown = sorted(sorted(range(len(layers)), key=lambda at: -layers[at]["share"])[:_LAYERS])
    largest = max(layer["share"] for layer in layers)
    table = plain_table(f"Forget against retain at {role}")
    table.add_column("layer", style="bold", justify="right")
    table.add_column(f"share > {facts['threshold']:g}", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, min_width=_BAR)
    for name in ("median", "largest", f"of top {100 * facts['top_share']:g}%"):
        table.add_column(name, justify="right", no_wrap=True)
    for at in shown:
        layer = layers[at]
        bar = "█" * round(_BAR * layer["share"] / largest) if largest else ""
        table.add_row(
            Text(layer_name(layer["layer"])),
            Text(percent(layer["share"])),
            Text(bar, style="dim"),
            Text(number(layer["median"])),
            Text(sign(layer["largest"])),
            Text(f"{layer['top']:,}"),
        )
    if len(shown) < len(layers):
        table.caption = f"{len(layers) - len(shown)} layers with smaller shares are in probe.json and on the page."
    return table


def neurons_table(facts: Mapping[str, Any], role: str) -> Table:
    """The neurons that are furthest apart, a neuron a row."""
    from rich.text import Text

    found = next(one for one in facts["roles"] if one["role"] == role)
    several = any(len(layer["sites"]) > 1 for layer in facts["layers"] if layer["role"] == role)
    table = plain_table(f"Neurons furthest apart at {role}")
    table.add_column("layer", style="bold", justify="right")
    if several:
        table.add_column("site", overflow="ellipsis", no_wrap=True, max_width=_SITE_WIDTH)
    table.add_column("neuron", justify="right")
    table.add_column("standardised", justify="right", no_wrap=True)
    for side in ("forget", "retain"):
        table.add_column(f"{side}, mean ± sd", justify="right", no_wrap=True)
    for neuron in found["furthest"][:_NEURONS]:
        site = [Text(neuron["site"].rpartition(".")[2])] if several else []
        sides = [
            Text(f"{number(neuron[side]['mean'])} ±{number(neuron[side]['deviation'], 2)}")
            for side in ("forget", "retain")
        ]
        table.add_row(
            Text(layer_name(neuron["layer"])), *site, Text(str(neuron["neuron"])), sign(neuron["standardised"]), *sides
        )
    return table


def groups_table(facts: Mapping[str, Any], role: str) -> Table:
    """Forget against each group of retain rows, a group a row."""
    from rich.text import Text

    table = plain_table(f"Forget against each group at {role}")
    table.add_column("group", style="bold", overflow="fold")
    for name in ("rows", f"share > {facts['threshold']:g}", "by chance", "largest"):
        table.add_column(name, justify="right", no_wrap=True)
    for group in facts["groups"]:
        found: Mapping[str, Any] = next((one for one in group.get("roles", []) if one["role"] == role), {})
        cells = (percent(found.get("share")), percent(found.get("by_chance")), sign(found.get("largest")))
        table.add_row(Text(group["name"]), f"{group['rows']:,}", *cells)
    return table
