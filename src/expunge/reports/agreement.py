"""How the answer judges of a run agree, as a report shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from expunge.reports.load import Run, finite
from expunge.reports.numbers import number, percent

_ON = {
    "privacy": "gives it away",
    "quality": "answer quality",
    "rejection": "declines",
}


@dataclass(frozen=True)
class AgreementRow:
    """Two judges on one verdict, as text. ``same`` is the share of answers on which they say the same, ``kappa``
    Cohen's (of verdicts with more than two steps the one that weighs by their distance), both with their intervals."""

    judges: str
    on: str
    n: str
    same: str
    same_interval: str
    kappa: str
    kappa_interval: str


def judges_agreement(run: Run) -> list[AgreementRow]:
    """A row for every two judges and verdict; none where one judge or none judged."""
    found = (run.scores.get("judges") or {}).get("agreement") or []
    return [_row(one) for one in found if isinstance(one, Mapping)]


def _row(one: Mapping[str, Any]) -> AgreementRow:
    steps = len(one.get("levels") or ())
    raw, kappa = one.get("raw") or {}, one.get("quadratic_kappa" if steps > 2 else "kappa") or {}
    on = str(one.get("on", ""))
    return AgreementRow(
        f"{one.get('first', '')} and {one.get('second', '')}",
        _ON.get(on, on),
        str(one.get("n", "")),
        *_estimate(raw, percent, missing=""),
        *_estimate(kappa, number, missing="not defined"),
    )


def _estimate(one: Mapping[str, Any], say: Any, *, missing: str) -> tuple[str, str]:
    """A value and its interval; the latter may be undefined by itself."""
    value, low, high = (finite(one.get(name)) for name in ("value", "low", "high"))
    if value is None:
        return missing, ""
    return say(value), "" if low is None or high is None else f"{say(low)} to {say(high)}"
