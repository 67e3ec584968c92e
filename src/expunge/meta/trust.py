"""How well metrics tell models that know from models that do not, and whether their order of models holds.

Faithfulness and robustness as properties of a metric: "OpenUnlearning" (arXiv:2506.12618), whose robustness is the
share of models that keep their score; here it is whether the order of all models is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from expunge.audits.parts.membership_attacks import separation
from expunge.evaluation.uncertainty import DRAWS, SEED
from expunge.meta.pool import KNOWING, UNKNOWING, Member

# Of these a model that knows has less.
_LOW = ("forget_truth_ratio", "forget_paraphrased_truth_ratio", "forget_quality")
COLUMNS = (
    "metric",
    "faithfulness: AUC",
    "reworded facts only",
    "against false facts",
    "order kept: relearning",
    "order kept: 4 bits",
)


@dataclass(frozen=True)
class Estimate:
    """A value and its 95% bootstrap interval over models; NaN where it is not defined."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})" if isfinite(self.value) else "undefined"

    def as_dict(self) -> dict[str, float | None]:
        """For JSON."""
        return {name: value if isfinite(value) else None for name, value in vars(self).items()}


@dataclass(frozen=True)
class Trust:
    """What is known of one metric.

    ``faithfulness``: the chance that it puts a model that knows above one that does not, ties counting half;
    ``by_kind`` the same for each pair of kinds (``reworded / false facts``) and for one kind against all of the other
    side (``reworded / all``, ``all / false facts``). ``relearning`` and ``quantization``: Spearman's rank correlation,
    over models, of its values before and after; ``after`` its faithfulness then. ``missing``: models without a value.
    """

    metric: str
    faithfulness: Estimate
    by_kind: Mapping[str, float]
    relearning: Estimate
    quantization: Estimate
    after: Mapping[str, Estimate]
    missing: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "metric": self.metric,
            "faithfulness": self.faithfulness.as_dict(),
            "by_kind": {name: value if isfinite(value) else None for name, value in self.by_kind.items()},
            "robustness": {"relearning": self.relearning.as_dict(), "quantization": self.quantization.as_dict()},
            "faithfulness_after": {name: one.as_dict() for name, one in self.after.items()},
            "missing": self.missing,
        }

    def cells(self) -> tuple[str, ...]:
        """Its row under :data:`COLUMNS`."""
        kinds = (_number(self.by_kind.get(name, np.nan)) for name in ("reworded / all", "all / false facts"))
        return (self.metric, str(self.faithfulness), *kinds, str(self.relearning), str(self.quantization))


def trusts(members: Sequence[Member], values: Sequence[Mapping[str, Mapping[str, float | None]]]) -> list[Trust]:
    """Judge every metric by the pool, the most faithful first, of equals the one whose order holds better.

    Args:
        values: for each member the metrics ``plain``, ``held_out``, ``relearned`` and ``rounded``; None or NaN where a
            metric has no value.
    """
    knows = np.array([one.knows for one in members])
    learned = np.array([one.learned for one in members])
    found = []
    for metric in values[0]["plain"]:
        sign = -1.0 if metric in _LOW else 1.0
        said = {
            when: sign * np.array([_float(one[when].get(metric)) for one in values], dtype=np.float64)
            for when in ("plain", "held_out", "relearned", "rounded")
        }
        plain = said["plain"]
        found.append(
            Trust(
                metric,
                auc(plain[knows], plain[~knows]),
                {
                    f"{ours} / {theirs}": auc(
                        plain[_kind(learned, ours, knows)], plain[_kind(learned, theirs, ~knows)]
                    ).value
                    for ours in ("all", *KNOWING)
                    for theirs in ("all", *UNKNOWING)
                    if (ours, theirs) != ("all", "all")
                },
                spearman(said["held_out"], said["relearned"]),
                spearman(plain, said["rounded"]),
                {
                    name: auc(said[when][knows], said[when][~knows])
                    for name, when in (("relearning", "relearned"), ("quantization", "rounded"))
                },
                int(np.isnan(plain).sum()),
            )
        )
    return sorted(found, key=_rank, reverse=True)


def auc(knowing: np.ndarray, unknowing: np.ndarray) -> Estimate:
    """The chance that a value of ``knowing`` [n] is above one of ``unknowing`` [m], ties counting half; undefined
    values (NaN) are left out."""
    found = separation(knowing, unknowing)
    return Estimate(found.auc, found.low, found.high)


def spearman(before: np.ndarray, after: np.ndarray) -> Estimate:
    """Spearman's rank correlation of [n] values with [n] others, ties at their mean rank; pairs with an undefined value
    (NaN) are left out. NaN where one side is all alike."""
    defined = np.isfinite(before) & np.isfinite(after)
    pairs = np.stack([before[defined], after[defined]])
    if pairs.shape[1] < 2:
        return Estimate(np.nan, np.nan, np.nan)
    drawn = np.random.default_rng(SEED).integers(pairs.shape[1], size=(DRAWS, pairs.shape[1]))
    value = float(_rank_correlations(pairs[:, None])[0])
    draws = _rank_correlations(pairs[:, drawn])
    kept = draws[np.isfinite(draws)]  # samples of one model again and again have no order
    low, high = np.quantile(kept, [0.025, 0.975]) if len(kept) else (np.nan, np.nan)
    return Estimate(value, float(low), float(high))


def _rank_correlations(pairs: np.ndarray) -> np.ndarray:
    """[k] the correlation of the ranks in each of k samples [2, k, n] of pairs; NaN where one side is all alike."""
    from scipy.stats import rankdata

    ranks = rankdata(pairs, axis=-1)
    off = ranks - ranks.mean(-1, keepdims=True)
    scale = np.sqrt((off**2).sum(-1).prod(0))
    return np.where(scale > 0, (off[0] * off[1]).sum(-1) / np.where(scale > 0, scale, 1.0), np.nan)


def markdown(found: Sequence[Trust]) -> str:
    """The table as Markdown."""
    return table_lines(COLUMNS, [(f"`{one.metric}`", *one.cells()[1:]) for one in found])


def table_lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, all columns but the first at the right."""
    lines = [f"| {' | '.join(columns)} |", f"| --- |{' ---: |' * (len(columns) - 1)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "".join(f"{line}\n" for line in lines)


def _kind(learned: np.ndarray, kind: str, side: np.ndarray) -> np.ndarray:
    chosen: np.ndarray = side if kind == "all" else learned == kind
    return chosen


def _rank(one: Trust) -> tuple[float, float]:
    kept = min(one.relearning.value, one.quantization.value)
    # rounded, so that what the table shows as equal is ordered by the rest
    return round(float(np.nan_to_num(one.faithfulness.value, nan=-1.0)), 2), float(np.nan_to_num(kept, nan=-2.0))


def _float(value: float | None) -> float:
    return np.nan if value is None else value


def _number(value: float) -> str:
    return f"{value:.2f}" if isfinite(value) else "undefined"
