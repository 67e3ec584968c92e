"""Runs that share their controls, side by side; runs that do not, apart. A score next to another run's target
or retrained model would compare two different things."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from expunge.reports.load import Run

CONTROLS = ("target", "retrained")


@dataclass(frozen=True)
class Group:
    """Runs with one target and one retrained model (or none). ``runs`` are positions in the report's list."""

    title: str
    runs: tuple[int, ...]
    target: dict[str, dict[str, Any]] | None
    retrained: dict[str, dict[str, Any]] | None


def group_runs(runs: list[Run]) -> list[Group]:
    """Group runs whose suite, target scores and retrained scores agree (to six digits), in order of
    appearance."""
    members: dict[tuple[Any, ...], list[int]] = {}
    for at, run in enumerate(runs):
        if run.scores:
            key = (run.suite, *(_signature(run.rows.get(control)) for control in CONTROLS))
            members.setdefault(key, []).append(at)
    groups = []
    for positions in members.values():
        first = runs[positions[0]]
        groups.append(
            Group(
                title=_title(first),
                runs=tuple(positions),
                target=first.rows.get("target"),
                retrained=first.rows.get("retrained"),
            )
        )
    return groups


def target_source(run: Run) -> str:
    """Where the target came from, as the run recorded it; empty where it did not."""
    target = (run.environment or {}).get("target") or {}
    model = (run.settings or {}).get("model")
    path = model.get("path") if isinstance(model, dict) else model
    return str(path or target.get("source") or "")


def _title(run: Run) -> str:
    source = target_source(run)
    title = f"{run.suite} on {source}" if source else run.suite
    return title if "retrained" in run.rows else f"{title}, without a retrained model"


def _signature(row: dict[str, dict[str, Any]] | None) -> tuple[Any, ...]:
    if row is None:
        return ()
    return tuple(sorted((metric, f"{float(entry['value']):.6g}", entry.get("n")) for metric, entry in row.items()))
