"""``expunge methods`` and ``expunge suites``."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from expunge.cli import display, options

Name = Annotated[str | None, typer.Argument(help="show one with its fields, defaults and paper")]


def methods(name: Name = None, as_json: options.AsJson = False) -> None:
    """The unlearning methods, or one of them with its fields."""
    from expunge.commands.listings import list_methods

    found = list_methods(name)
    if as_json:
        display.print_json(found if name is None else found[0])
    elif name is None:
        _overview(found, "family")
    else:
        _fields(found[0])


def suites(name: Name = None, as_json: options.AsJson = False) -> None:
    """The benchmark suites, or one of them with its metrics."""
    from expunge.commands.listings import list_suites

    found = list_suites(name)
    if as_json:
        display.print_json(found if name is None else found[0])
    elif name is None:
        _overview(found, "kind")
    else:
        _fields(found[0])
        metrics = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        metrics.add_column("metric", no_wrap=True)
        metrics.add_column("what it says")
        for metric in found[0]["metrics"]:
            metrics.add_row(metric["name"], metric.get("summary", ""))
        Console().print(metrics)


def _overview(found: list[dict[str, Any]], kind: str) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("name", kind):
        table.add_column(column, no_wrap=True)
    table.add_column("what it does")
    for entry in found:
        table.add_row(entry["name"], entry[kind], entry["summary"])
    Console().print(table)


def _fields(entry: dict[str, Any]) -> None:
    console = Console()
    console.print(entry["name"], style="bold", highlight=False)
    console.print(entry["summary"], highlight=False)
    paper = entry["paper"]
    console.print(f"Paper: {paper['title']} ({paper['reference']})" if paper["reference"] else "", highlight=False)
    if not entry["parameters"]:
        console.print("It has no fields of its own.")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("field", no_wrap=True)
    table.add_column("type")
    table.add_column("default")
    table.add_column("meaning")
    for field in entry["parameters"]:
        default = "required" if field["required"] else str(field["default"])
        table.add_row(field["name"], str(field["type"]), default, field.get("description", ""))
    console.print(table)
