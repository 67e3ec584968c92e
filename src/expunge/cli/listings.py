"""``expunge methods``, ``expunge suites`` and ``expunge audits``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from expunge.cli import display, options

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

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
        _fields(found[0], "method")
        if found[0]["family"] == "weights":
            _training()


def suites(name: Name = None, as_json: options.AsJson = False) -> None:
    """The benchmark suites, or one of them with its metrics."""
    from expunge.benchmarks.registry import get_benchmark
    from expunge.commands.listings import list_suites

    found = list_suites(name)
    if name is not None:
        settable = [option for option in found[0]["parameters"] if option["name"] != "request"]
        meanings = option_meanings(get_benchmark(name).build.__doc__ or "", [option["name"] for option in settable])
        for option in settable:
            option["description"] = meanings[option["name"]]
    if as_json:
        display.print_json(found if name is None else found[0])
    elif name is None:
        _overview(found, "kind")
    else:
        _fields(found[0], "suite")
        metrics = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        metrics.add_column("metric", no_wrap=True)
        metrics.add_column("what it says")
        for metric in found[0]["metrics"]:
            metrics.add_row(metric["name"], _plain(metric.get("summary", "")))
        console = Console()
        console.print()
        console.print(metrics)


def audits(name: Name = None, as_json: options.AsJson = False) -> None:
    """The audits, or one of them with its control and options."""
    from expunge.commands.listings import list_audits

    found = list_audits(name)
    if as_json:
        display.print_json(found if name is None else found[0])
    elif name is None:
        _overview([{**one, "runs": "by default" if one["by_default"] else "when named"} for one in found], "runs")
    else:
        _fields(found[0], f"audits.{name}")
        needed = " Without a retrained model it makes no claim." if found[0]["needs_retrained"] else ""
        Console().print(f"\nJudged by: {found[0]['control']}.{needed}", markup=False, highlight=False)


def _overview(found: list[dict[str, Any]], kind: str) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("name", kind):
        table.add_column(column, no_wrap=True)
    table.add_column("what it does")
    for entry in found:
        table.add_row(entry["name"], entry[kind], _plain(entry["summary"]))
    Console().print(table)


def _fields(entry: dict[str, Any], section: str) -> None:
    console = Console()
    console.print(entry["name"], style="bold", highlight=False)
    console.print(_plain(entry["summary"]), highlight=False)
    paper = entry["paper"]
    if paper["reference"]:
        console.print(f"Paper: {paper['title']} ({paper['reference']})", markup=False, highlight=False)
    fields = [field for field in entry["parameters"] if field["name"] != "request"]  # which is not set by hand
    _settings(fields, section, f"It has no {section} settings of its own.")


def _training() -> None:
    """The settings of the training loop, which all methods that change weights share."""
    from expunge.training.settings import TrainingSettings

    fields = [
        {"name": name, "default": field.default, "required": False, "description": _meaning(field)}
        for name, field in TrainingSettings.model_fields.items()
    ]
    _settings(fields, "training", "")


def _meaning(field: FieldInfo) -> str:
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    listed = f"one of {', '.join(choices)}" if choices else ""
    return "; ".join(text for text in (field.description, listed) if text)


def _settings(fields: list[dict[str, Any]], section: str, none: str) -> None:
    console = Console()
    console.print()
    if not fields:
        console.print(none)
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("setting", no_wrap=True)
    table.add_column("default", max_width=20)
    if any(field.get("description") for field in fields):
        table.add_column("meaning")
    for field in fields:
        default = "required" if field["required"] else _shown(field["default"])
        cells = [f"{section}.{field['name']}", escape(default), _plain(field.get("description", ""))]
        table.add_row(*cells[: len(table.columns)])
    console.print(table)


def option_meanings(docstring: str, names: list[str]) -> dict[str, str]:
    """What a docstring says of each named option: the first sentence in which it stands between double backticks.

    Of several options in one sentence the first has the sentence, the others say where it is.
    """
    sentences = re.split(r"(?<=\.)\s+(?=[A-Z`])", " ".join(docstring.split()))
    meanings, told = {}, dict[str, str]()
    for name in names:
        sentence = next((one for one in sentences if f"``{name}``" in one), "")
        holder = told.setdefault(sentence, name)
        text = re.sub(r"\bNone\b", "null", sentence.replace("``", "")).removesuffix(".")
        meanings[name] = text if holder == name else f"see suite.{holder}" if sentence else ""
    return meanings


def _plain(text: str) -> str:
    """Text of a docstring for a terminal: without its markup, and with none of the terminal's own."""
    return escape(re.sub(r":\w+:`~?([^`]*)`", r"\1", text).replace("``", ""))


def _shown(value: Any) -> str:
    if value is None or value == ():
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value)
