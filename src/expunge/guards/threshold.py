"""From which score on a prompt is flagged: the threshold that keeps to a stated false-positive rate.

The bound is the one of :mod:`expunge.interventions.calibration`, with scores turned around: there a row is detected
when its number is small, here when its score is high.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from expunge.errors import ConfigError, InputError
from expunge.interventions.calibration import GroupBound, conformal_scale, rows_needed

ALL = ""
"""The name of all kinds together."""
_SURE = 0.95
_LISTED = 10


@dataclass(frozen=True)
class KindBound:
    """What is known of false positives among prompts of one kind (``kind`` "": of all together).

    ``bound`` = ``rank`` / (``rows`` + 1) limits the probability that a new prompt of the kind is flagged with the
    threshold ``own`` that the kind alone would have; the one in use is at least that where the kind was to meet the
    level. ``observed`` is the share of the calibration prompts that are flagged, ``upper`` what the share of new ones
    stays below with 95% confidence.
    """

    kind: str
    rows: int
    rank: int
    bound: float
    observed: float
    upper: float
    own: float


@dataclass(frozen=True)
class Threshold:
    """Flagged is a prompt with a score of at least ``value``, both in float32.

    ``decides`` is the kind that set it, "" for all together. ``bounds`` begin with all together and have the kinds that
    had to meet the level, too.
    """

    value: float
    level: float
    decides: str
    bounds: tuple[KindBound, ...]

    def flags(self, scores: np.ndarray) -> np.ndarray:
        """bool, of the scores' shape."""
        found: np.ndarray = np.asarray(scores, dtype=np.float32) >= np.float32(self.value)
        return found

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Self:
        """What :meth:`as_dict` gave."""
        bounds = tuple(KindBound(**bound) for bound in facts["bounds"])
        return cls(**{**facts, "bounds": bounds})


@dataclass(frozen=True)
class Rate:
    """``flagged`` of ``rows`` prompts, and the Clopper-Pearson interval of the rate (95%)."""

    flagged: int
    rows: int
    low: float
    high: float

    @property
    def rate(self) -> float:
        return self.flagged / self.rows

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "rate": self.rate}


def calibrate(
    scores: np.ndarray, level: float, *, kinds: Sequence[str] | None = None, every_kind: bool = False
) -> Threshold:
    """The smallest threshold that keeps false positives to ``level``.

    Of n benign prompts that the classifier was not fitted on, and a new one that is exchangeable with them, the new one
    is flagged with probability at most floor(level (n + 1)) / (n + 1), ties included.

    Args:
        scores: [n] of benign prompts.
        level: between 0 and 1.
        kinds: [n] of what kind each is.
        every_kind: each kind must meet the level by itself, not only all of them together.

    Raises:
        InputError: no prompts, or fewer than the level takes, in all or in a kind: all such kinds are named with the
            number that it takes; scores that are NaN.
        ConfigError: a level outside of 0 to 1, or ``every_kind`` without ``kinds``.
    """
    import torch

    values = np.asarray(scores, dtype=np.float32)
    if every_kind and kinds is None:
        raise ConfigError("every kind is to meet the level, and no kinds are given. Pass the kind of each prompt.")
    if kinds is not None and len(kinds) != len(values):
        raise ConfigError(f"{len(kinds)} kinds are given for {len(values)} scores. Give one for each.")
    check_rows(len(values), level, kinds if every_kind else None)
    nan = np.flatnonzero(np.isnan(values)).tolist()
    if nan:
        rows = f"{', '.join(map(str, nan[:_LISTED]))}{', ..' if len(nan) > _LISTED else ''}"
        raise InputError(
            f"the scores of {len(nan)} of {len(values)} benign prompts are NaN (rows {rows}), so that no "
            "threshold follows from them: the classifier, or what it reads of the model, is damaged. Leave these "
            "prompts out, or fit another classifier."
        )
    found = conformal_scale(
        torch.from_numpy(-values), level, k_star=math.inf, max_scale=None, groups=kinds if every_kind else None
    )
    bounds = tuple(_turned(bound) for bound in found.bounds)
    return Threshold(-found.scale, level, found.decides or ALL, bounds)


def rate(flags: np.ndarray) -> Rate:
    """The share of ``flags`` [n], n at least 1, that are set, with its interval."""
    from scipy.stats import beta

    rows, flagged = len(flags), int(np.sum(flags))
    tail = (1 - _SURE) / 2
    low = float(beta.ppf(tail, flagged, rows - flagged + 1)) if flagged else 0.0
    high = float(beta.ppf(1 - tail, flagged + 1, rows - flagged)) if flagged < rows else 1.0
    return Rate(flagged, rows, low, high)


def rates(flags: np.ndarray, kinds: Sequence[str]) -> dict[str, Rate]:
    """:func:`rate` of all together ("") and of every kind, sorted."""
    names = np.array(kinds)
    return {ALL: rate(flags), **{name: rate(flags[names == name]) for name in sorted(set(kinds))}}


def check_rows(rows: int, level: float, kinds: Sequence[str] | None) -> None:
    """Raise InputError where ``rows`` benign prompts, or those of one of their ``kinds``, are too few for the level."""
    if not 0 < level < 1:
        raise ConfigError(f"a false-positive level of {level} is not between 0 and 1. Give one such as 0.01.")
    needed = rows_needed(level)
    if not rows:
        raise InputError(
            f"there are no benign prompts to calibrate on; a false-positive level of {level:g} takes {needed}. Pass "
            "retain rows, or calibration rows of their own."
        )
    counts = {kind: list(kinds).count(kind) for kind in sorted(set(kinds))} if kinds is not None else {ALL: rows}
    small = {kind: count for kind, count in counts.items() if count < needed}
    if not small:
        return
    have = ", ".join(
        f"'{kind}' has {count}" if kinds is not None else f"there are {count}" for kind, count in small.items()
    )
    least = math.ceil(1e4 / (min(small.values()) + 1)) / 1e4
    together = ", or let all kinds meet it together" if kinds is not None and rows >= needed else ""
    raise InputError(
        f"a false-positive level of {level:g} takes at least {needed} benign calibration prompts"
        f"{' of each kind' if kinds is not None else ''}, and {have}. Pass more, or a level of at least {least:g}"
        f"{together}."
    )


def _turned(bound: GroupBound) -> KindBound:
    return KindBound(bound.group, bound.rows, bound.rank, bound.bound, bound.observed, bound.upper, -bound.scale)
