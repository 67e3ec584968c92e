"""Agreement between two judges of the same answers: raw, and beyond what chance gives (Cohen's kappa)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from expunge.errors import ConfigError
from expunge.evaluation.types import AnswerVerdict, ModelOutputs
from expunge.evaluation.uncertainty import DRAWS, SEED

LEVELS = {"privacy": (0.0, 0.5, 1.0), "quality": (0.0, 0.25, 0.5, 0.75, 1.0), "rejection": (0.0, 1.0)}
"""The steps that each verdict is compared in; one between two steps counts as the nearer (the lower of two equally
near)."""

_TAILS = (2.5, 97.5)


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% bootstrap interval; None where it is not defined (both judges always say the same one
    thing), the interval also where fewer than half of the resamples define it."""

    value: float | None
    low: float | None
    high: float | None

    def to_json(self) -> dict[str, float | None]:
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Agreement:
    """How two judges agree over ``n`` answers.

    ``table`` [k][k] counts answers by the first judge's level (rows) and the second's (columns). ``raw`` is the share
    on which they agree. ``kappa`` is Cohen's (1960), 1 - observed / expected disagreement with the expected one from
    the judges' own shares of levels; ``quadratic_kappa`` (Cohen 1968) weighs a disagreement by the square of the steps
    between its levels.
    """

    n: int
    levels: tuple[float, ...]
    table: tuple[tuple[int, ...], ...]
    raw: Estimate
    kappa: Estimate
    quadratic_kappa: Estimate

    def to_json(self) -> dict[str, Any]:
        return {
            "n": self.n,
            "levels": list(self.levels),
            "table": [list(row) for row in self.table],
            **{name: getattr(self, name).to_json() for name in ("raw", "kappa", "quadratic_kappa")},
        }


def agreement(
    first: Sequence[float],
    second: Sequence[float],
    levels: Sequence[float],
    *,
    groups: Sequence[object] | None = None,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Agreement | None:
    """Agreement of two judges' values on the same answers; answers on which either says NaN are left out, None where
    none is left.

    Values count as the nearest of ``levels``, ascending. The bootstrap draws ``groups`` whole (answers to one question
    are no independent examples); each answer is its own where they are not given.

    Raises:
        ConfigError: the lengths differ.
    """
    groups = range(len(first)) if groups is None else groups
    if not len(first) == len(second) == len(groups):
        raise ConfigError(
            f"agreement of {len(first)} and {len(second)} values in {len(groups)} groups: pass one value of each judge "
            "and one group for every answer."
        )
    kept = [i for i in range(len(first)) if not (math.isnan(first[i]) or math.isnan(second[i]))]
    if not kept:
        return None
    places = {group: place for place, group in enumerate(dict.fromkeys(groups[i] for i in kept))}
    size = len(levels)
    counts = np.zeros((len(places), size, size))
    for i in kept:
        counts[places[groups[i]], _nearest(first[i], levels), _nearest(second[i], levels)] += 1
    table = counts.sum(0)
    weights = np.random.default_rng(seed).multinomial(len(places), np.full(len(places), 1 / len(places)), size=draws)
    resampled = (weights @ counts.reshape(len(places), -1)).reshape(draws, size, size)
    steps = np.subtract.outer(np.arange(size), np.arange(size)) ** 2.0
    unequal = (steps > 0).astype(np.float64)
    return Agreement(
        n=len(kept),
        levels=tuple(levels),
        table=tuple(tuple(int(count) for count in row) for row in table),
        raw=_estimate(_raw(table[None]), _raw(resampled)),
        kappa=_estimate(_kappa(table[None], unequal), _kappa(resampled, unequal)),
        quadratic_kappa=_estimate(_kappa(table[None], steps), _kappa(resampled, steps)),
    )


def agreements(outputs: Mapping[str, ModelOutputs]) -> list[dict[str, Any]]:
    """How every two judges agree on the answers of all models, ready for JSON: ``first`` and ``second`` judge, the
    verdict they are compared ``on``, and the :class:`Agreement`. Answers to one row are one group."""
    verdicts: list[tuple[tuple[str, int], Mapping[str, AnswerVerdict]]] = [
        ((name, index), row.verdicts)
        for one in outputs.values()
        for name, part in one.sets.items()
        for index, row in enumerate(part.rows)
        if row.verdicts
    ]
    labels = dict.fromkeys(label for _, said in verdicts for label in said)
    found: list[dict[str, Any]] = []
    for first, second in combinations(labels, 2):
        both = [(group, said[first], said[second]) for group, said in verdicts if first in said and second in said]
        for name, levels in LEVELS.items():
            one = agreement(
                [getattr(left, name) for _, left, _ in both],
                [getattr(right, name) for _, _, right in both],
                levels,
                groups=[group for group, _, _ in both],
            )
            if one is not None:
                found.append({"first": first, "second": second, "on": name, **one.to_json()})
    return found


def _nearest(value: float, levels: Sequence[float]) -> int:
    return min(range(len(levels)), key=lambda place: abs(levels[place] - value))


def _raw(tables: np.ndarray) -> np.ndarray:
    """Share on the diagonal of ``tables`` [.., k, k]."""
    return np.asarray(np.trace(tables, axis1=-2, axis2=-1) / tables.sum((-2, -1)))


def _kappa(tables: np.ndarray, disagreement: np.ndarray) -> np.ndarray:
    """Kappa of ``tables`` [.., k, k] with what each cell's disagreement weighs [k, k]; NaN where none is expected."""
    shares = tables / tables.sum((-2, -1), keepdims=True)
    expected = shares.sum(-1)[..., :, None] * shares.sum(-2)[..., None, :]
    by_chance = (expected * disagreement).sum((-2, -1))
    observed = (shares * disagreement).sum((-2, -1))
    defined = by_chance > 0
    return np.where(defined, 1 - observed / np.where(defined, by_chance, 1.0), np.nan)


def _estimate(value: np.ndarray, resampled: np.ndarray) -> Estimate:
    defined = resampled[~np.isnan(resampled)]
    if np.isnan(value[0]):
        return Estimate(None, None, None)
    if 2 * len(defined) < len(resampled):
        return Estimate(float(value[0]), None, None)
    low, high = np.percentile(defined, _TAILS)
    return Estimate(float(value[0]), float(low), float(high))
