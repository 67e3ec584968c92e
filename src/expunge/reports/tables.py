"""The tables of a report as plain records, ready for the page's template: scores and settings."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from expunge.reports.groups import Group
from expunge.reports.guard import without_drawn
from expunge.reports.load import Run, is_number
from expunge.reports.names import leading, metric_name, metric_order, set_title
from expunge.reports.numbers import count, number, stderr


@dataclass(frozen=True)
class Cell:
    """One score: the value as text, its standard error or range beside it, and the full story on hover."""

    text: str
    spread: str = ""
    title: str = ""


@dataclass(frozen=True)
class Column:
    """One model. ``kind`` is ``target``, ``erased`` or ``retrained``; ``run`` the run's position, for its
    colour."""

    label: str
    kind: str
    run: int | None = None


@dataclass(frozen=True)
class TableRow:
    """One metric over all models; None is a model that the metric was not measured on."""

    label: str
    meaning: str
    key: str
    cells: tuple[Cell | None, ...]
    n: str = ""


@dataclass(frozen=True)
class ScoreTable:
    """Scores side by side: the headline rows, then every other metric by the set it was measured on."""

    columns: tuple[Column, ...]
    headline: tuple[TableRow, ...]
    sections: tuple[tuple[str, tuple[TableRow, ...]], ...] = field(default=())


def cell(entry: dict[str, Any] | None) -> Cell | None:
    """A score entry as a cell. Over several seeds the range takes the standard error's place; both are in the
    title."""
    if entry is None or not is_number(entry.get("value")):
        return None
    value = float(entry["value"])
    story = [f"value {number(value, 6)}"]
    spread = ""
    if entry.get("min") is not None and entry.get("max") is not None:
        low, high = number(float(entry["min"])), number(float(entry["max"]))
        spread = f"{low} to {high}" if low != high else ""
        story[0] = f"median {number(value, 6)}, lowest seed {low}, highest seed {high}"
    if is_number(entry.get("stderr")):
        text = stderr(entry["stderr"])
        spread = spread or text
        story.append(f"standard error {text.removeprefix('±')}")
    if is_number(entry.get("n")):
        story.append(f"n = {entry['n']:,}")
    if entry.get("version"):
        story.append(f"metric version {entry['version']}")
    return Cell(number(value), spread, ", ".join(story))


def score_table(group: Group, runs: list[Run]) -> ScoreTable:
    """Target, every run's erased model and the retrained model, metric by metric."""
    columns: list[tuple[Column, dict[str, dict[str, Any]]]] = []
    if group.target is not None:
        columns.append((Column("Target", "target"), group.target))
    for at in group.runs:
        if "erased" in runs[at].rows:
            columns.append((Column(runs[at].label, "erased", at), runs[at].rows["erased"]))
    if group.retrained is not None:
        columns.append((Column("Retrained", "retrained"), group.retrained))
    keys = metric_order(list(dict.fromkeys(key for _, row in columns for key in row)))
    rows = {
        key: TableRow(
            metric_name(key).label,
            metric_name(key).meaning,
            key,
            tuple(cell(row.get(key)) for _, row in columns),
            _examples(row[key].get("n") for _, row in columns if key in row),
        )
        for key in keys
    }
    headline = tuple(rows[key] for key in leading(keys, *(runs[at].scores for at in group.runs)))
    others: dict[str, list[TableRow]] = {}
    for row in rows.values():
        if row not in headline:
            others.setdefault(set_title(metric_name(row.key).group) or "Overall", []).append(row)
    return ScoreTable(
        tuple(column for column, _ in columns),
        headline,
        tuple((name, tuple(part)) for name, part in others.items()),
    )


def _examples(found: Iterable[Any]) -> str:
    """``n = 40``, or the smallest and the largest where the models were scored on different numbers of
    examples."""
    known = sorted({int(n) for n in found if is_number(n)})
    return f"n = {known[0]:,}" + (f" to {known[-1]:,}" if len(known) > 1 else "") if known else ""


def flatten(tree: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted names and text: ``{"method": {"beta": 0.1}}`` is ``[("method.beta",
    "0.1")]``."""
    if isinstance(tree, dict) and tree:
        pairs = []
        for key, value in tree.items():
            pairs += flatten(value, f"{prefix}.{key}" if prefix else str(key))
        return pairs
    if isinstance(tree, str):
        text = tree
    elif isinstance(tree, list) and all(isinstance(item, str | int | float) for item in tree):
        text = ", ".join(str(item) for item in tree) or "none"
    elif tree is None or tree == {}:
        text = "none"
    else:
        text = json.dumps(tree, ensure_ascii=False, default=str)
    return [(prefix, text)]


@dataclass(frozen=True)
class Difference:
    """One setting that is not the same in all runs, with each run's value (empty: not set there)."""

    name: str
    values: tuple[str, ...]


def setting_differences(runs: list[Run]) -> list[Difference]:
    """The settings in which the runs differ, by dotted name; none for a single run."""
    if len(runs) < 2:
        return []
    flat = [dict(flatten(run.settings or {})) for run in runs]
    names = dict.fromkeys(name for settings in flat for name in settings)
    rows = [Difference(name, tuple(settings.get(name, "") for settings in flat)) for name in names]
    return [row for row in rows if len(set(row.values)) > 1]


def setting_sections(run: Run) -> list[tuple[str, list[tuple[str, str]]]]:
    """Everything recorded about one run, as titled lists of names and values."""
    environment = dict(run.environment or {})
    environment.pop("schema", None)
    target = environment.pop("target", None)
    data = environment.pop("data", None)
    environment.pop("audited", None)  # said under the title
    others = {name: environment.pop(name) for name in ("erasure", "erased", "retrained") if name in environment}
    manifest = {k: v for k, v in (run.manifest or {}).items() if k != "schema"}
    if isinstance(manifest.get("details"), dict):  # lists of numbers, which the page draws
        kept = without_drawn(manifest["details"])
        manifest["details"] = {k: v for k, v in kept.items() if k not in ("curves", "boxes")}
    sections = [
        ("Settings", flatten(run.settings) if run.settings else []),
        ("Erasure", flatten(manifest) if manifest else []),
        ("Target's fingerprint", flatten(target) if target else []),
        ("Fingerprints beside the target's", flatten(others) if others else []),
        ("Data", flatten(data) if data else []),
        ("Versions and hardware", flatten(environment) if environment else []),
        (
            "Seconds",
            [(k, number(float(v))) for k, v in run.scores.get("seconds", {}).items() if is_number(v)],
        ),
        ("Evidence", [(k, _evidence(v)) for k, v in (run.verdict.get("evidence") or {}).items()]),
    ]
    return [(title, pairs) for title, pairs in sections if pairs]


def _evidence(value: Any) -> str:
    return number(float(value), 4) if is_number(value) else flatten(value)[0][1]


def data_summary(run: Run) -> str:
    """``40 forget rows, 400 retain rows``, from what the run recorded of its data."""
    data = (run.environment or {}).get("data") or {}
    parts = [
        count(entry["rows"], f"{name} row")
        for name, entry in data.items()
        if isinstance(entry, dict) and is_number(entry.get("rows"))
    ]
    return ", ".join(parts)
