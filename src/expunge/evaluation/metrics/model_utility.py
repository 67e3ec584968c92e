"""Model utility: is the rest still there? One number over what must stay."""

from __future__ import annotations

import numpy as np

from expunge.evaluation.metric import ModelValues, SuiteMetric, UndefinedScoreError
from expunge.evaluation.types import Score
from expunge.evaluation.uncertainty import SEED, resampled_means, spread

SETS = ("retain", "real_authors", "world_facts")
LABELS = ("probability", "rouge", "truth_ratio")


def harmonic_mean(values: np.ndarray) -> np.ndarray:
    """Harmonic mean over the last axis [.., k] -> [..]; 0 where any value is 0 (its limit)."""
    with np.errstate(divide="ignore"):
        return np.asarray(values.shape[-1] / (1.0 / values).sum(axis=-1))


def _compute(own: ModelValues, _retrained: ModelValues | None) -> Score:
    tables = [np.stack([own.folded[f"{name}_{label}"] for label in LABELS], axis=1) for name in SETS]
    for name, table in zip(SETS, tables, strict=True):
        empty = [label for label, column in zip(LABELS, table.T, strict=True) if np.isnan(column).all()]
        if empty:
            raise UndefinedScoreError(f"model_utility has no value: no row of {name} defines {', '.join(empty)}.")
    means = np.concatenate([np.nanmean(table, axis=0) for table in tables])
    # a set's three scores are of the same rows: resample those together, the sets apart
    drawn = [resampled_means(table, seed=SEED + i) for i, table in enumerate(tables)]
    stderr = spread(harmonic_mean(np.concatenate(drawn, axis=1)))
    return Score(float(harmonic_mean(means)), stderr, sum(map(len, tables)), METRIC.version)


METRIC = SuiteMetric(
    name="model_utility",
    version=1,
    summary="Harmonic mean of probability, ROUGE and truth ratio on retain, real authors and world facts.",
    requires=tuple(f"{name}_{label}" for name in SETS for label in LABELS),
    compute=_compute,
    paper="2401.06121",
)
