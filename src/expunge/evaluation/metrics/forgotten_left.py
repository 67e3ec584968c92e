"""What is left of a forgotten skill, as a share of what the target solves."""

from __future__ import annotations

import numpy as np

from expunge.evaluation.metric import ModelValues, SuiteMetric, UndefinedScoreError
from expunge.evaluation.types import Score
from expunge.evaluation.uncertainty import SEED, resampled_means, spread

VERSION = 1


def of(key: str) -> SuiteMetric:
    """The metric over score ``key``, whose rows are those that must be forgotten."""

    def compute(own: ModelValues, target: ModelValues | None) -> Score:
        value, draws, count = share("forgotten_left", key, own, target)
        return Score(value, spread(draws), count, VERSION)

    return SuiteMetric(
        name="forgotten_left",
        version=VERSION,
        summary="Share of the target's score that is left on the skill to forget.",
        requires=(key,),
        compute=compute,
        against="target",
        paper="2503.21730",
    )


def share(
    name: str, key: str, own: ModelValues, target: ModelValues | None, *, seed: int = SEED
) -> tuple[float, np.ndarray, int]:
    """Mean of ``key`` over the target's mean on the rows that both define, that share in bootstrap samples of those
    rows [draws], and their number. ``name`` is the metric's, for errors."""
    if target is None:
        raise UndefinedScoreError(f"{name} has no value: the target was not scored.")
    table = np.stack([own.folded[key], target.folded[key]], axis=1)
    table = table[~np.isnan(table).any(axis=1)]
    if not len(table) or not table[:, 1].any():
        raise UndefinedScoreError(f"{name} has no value: {key} of the target is 0 or has no value.")
    means = resampled_means(table, seed=seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = np.where(means[:, 1] > 0, means[:, 0] / means[:, 1], np.nan)
    value, before = table.mean(axis=0)
    return float(value / before), draws, len(table)


METRIC = of("forget_solved")
