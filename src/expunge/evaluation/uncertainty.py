"""Standard errors from the examples: sd/sqrt(n) for a mean, bootstrap for everything else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

DRAWS = 2000
SEED = 20240111  # fixed, so that the same outputs always get the same standard error


def mean_stderr(values: np.ndarray) -> float | None:
    """Standard error of the mean of ``values`` [n]: sd / sqrt(n) with n - 1 in the variance; None for one
    example."""
    if len(values) < 2:
        return None
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def resampled_means(values: np.ndarray, *, draws: int = DRAWS, seed: int = SEED) -> np.ndarray:
    """Means of the k columns of ``values`` [n, k] in ``draws`` bootstrap samples of its rows: [draws, k].

    Rows are drawn whole, so that columns of the same examples stay together. NaN marks a column that a row
    does not define; it takes no part in that column's mean (a sample without any defined row gives NaN).
    """
    n = len(values)
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)
    defined = ~np.isnan(values)
    sums = weights @ np.where(defined, values, 0.0)
    counts = weights @ defined.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return sums / np.where(counts > 0, counts, np.nan)


def bootstrap_stderr(
    values: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], *, seed: int = SEED
) -> float | None:
    """Standard error of ``statistic`` (column means [draws, k] -> [draws]) under resampling of the rows of
    ``values`` [n, k]; None for one example."""
    if len(values) < 2:
        return None
    return spread(statistic(resampled_means(values, seed=seed)))


def spread(resampled: np.ndarray) -> float | None:
    """Standard deviation of a statistic over its bootstrap samples, undefined samples left out."""
    kept = resampled[~np.isnan(resampled)]
    return float(np.std(kept, ddof=1)) if len(kept) > 1 else None
