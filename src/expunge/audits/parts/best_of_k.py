"""What the best of k sampled answers gives away, estimated without bias from n of them."""

from __future__ import annotations

from math import comb

import numpy as np

from expunge.errors import ConfigError

_LEVEL = 0.05


def best_of_k(scores: np.ndarray, k: int) -> np.ndarray:
    """[R] the expected highest of ``k`` scores drawn without replacement from the n of each row: scores [R, n].

    The i-th lowest of n is the highest of k in C(i - 1, k - 1) of the C(n, k) ways to draw them, so that the mean over
    all ways is a weighted sum of the sorted scores. Of scores that are 0 or 1 that is 1 - C(n - c, k) / C(n, k) with c
    ones, the estimator of pass@k (Chen et al., arXiv:2107.03374). NaN where a row has scores that are no number.

    Raises:
        ConfigError: k below 1 or above n.
    """
    n = scores.shape[1]
    _check(k, n)
    ways = comb(n, k)
    weights = np.array([comb(place, k - 1) / ways for place in range(n)])
    found: np.ndarray = np.sort(scores, axis=1) @ weights
    return found


def leak_bounds(counts: np.ndarray, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """[R] lower and [R] upper 95% bounds of the chance that one of ``k`` answers leaks or more, where ``counts`` [R] of
    the ``n`` samples did; for any n, also where none leaked.

    They are 1 - (1 - p)^k at the ends of Clopper and Pearson's interval of the chance p that one sample leaks
    (Biometrika 26, 1934).
    """
    from scipy.stats import beta

    _check(k, n)
    counts = np.asarray(counts)
    low = np.where(counts > 0, beta.ppf(_LEVEL / 2, np.maximum(counts, 1), n - counts + 1), 0.0)
    high = np.where(counts < n, beta.ppf(1 - _LEVEL / 2, counts + 1, np.maximum(n - counts, 1)), 1.0)
    return 1 - (1 - low) ** k, 1 - (1 - high) ** k


def _check(k: int, n: int) -> None:
    if not 1 <= k <= n:
        raise ConfigError(f"k={k} of {n} samples: k is at least 1 and at most the number of samples. Draw more.")
