"""Membership attacks as functions of a text's log-probabilities, and how well a score tells two sets of texts apart.

Every attack's score is higher for what looks more like a text that the model was trained on.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from expunge.errors import ConfigError
from expunge.evaluation.uncertainty import DRAWS, SEED, spread

_LEAST = 1e-6  # nats: what is less is rounding


def loss_score(logps: np.ndarray) -> float:
    """The mean log-probability of a text's tokens [T]; NaN without any. Yeom et al. (arXiv:1709.01604)."""
    return float(np.mean(logps, dtype=np.float64)) if len(logps) else float("nan")


def zlib_score(logps: np.ndarray, text: str) -> float:
    """The mean log-probability by each byte that zlib makes of the text: what is hard for everyone counts less. Carlini
    et al. (arXiv:2012.07805)."""
    return loss_score(logps) / len(zlib.compress(text.encode("utf-8")))


def least_share(values: np.ndarray, percent: float) -> float:
    """The mean of the lowest ``percent`` of ``values`` [T], at least one of them; NaN without any. Undefined ones (NaN)
    are left out.

    Of log-probabilities that is min-k% (Shi et al., arXiv:2310.16789), of :func:`standardised` ones min-k%++.

    Raises:
        ConfigError: a percentage that is not above 0 and at most 100.
    """
    if not 0 < percent <= 100:
        raise ConfigError(f"min-k% with k = {percent}: k is a percentage above 0, up to 100.")
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan")
    count = max(1, int(len(values) * percent / 100))
    return float(np.sort(values)[:count].mean(dtype=np.float64))


def standardised(logps: np.ndarray, means: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    """[T] how far each token's log-probability is from what the model expects there, in standard deviations.

    ``means`` and ``deviations`` [T] are those of log p(z) over tokens z drawn from p at each position. NaN where there
    is no deviation: all tokens are equally likely, as after a refusal, or one is certain. Zhang et al., "Min-K%++"
    (arXiv:2404.02936).
    """
    known = deviations > _LEAST
    return np.where(known, (logps - means) / np.where(known, deviations, 1.0), np.nan)


@dataclass(frozen=True)
class Separation:
    """How well scores tell ``n`` forget rows from ``others`` holdout rows.

    ``auc``: the chance that a forget row scores higher than a holdout row, ties counting half; 1: forget rows look like
    members, 0.5: nothing tells them apart. ``low`` and ``high``: its 95% interval, by bootstrap; where the sets lie
    wholly apart, of which there is nothing to draw, by :func:`bound_apart` and without a ``stderr``. ``draws`` [DRAWS]
    the bootstrap samples themselves, of the same rows for every separation of as many rows. ``tpr_1``, ``tpr_5``: the
    share of forget rows above a threshold that at most 1% (5%) of the holdout rows pass. ``undefined``: rows without a
    score.
    """

    auc: float
    stderr: float | None
    low: float
    high: float
    tpr_1: float
    tpr_5: float
    n: int
    others: int
    undefined: int
    draws: np.ndarray

    def as_dict(self) -> dict[str, float | int | None]:
        """For JSON."""
        return {name: value for name, value in vars(self).items() if name != "draws"}


def separation(forget: ArrayLike, holdout: ArrayLike) -> Separation:
    """Compare the scores of forget rows [n] and holdout rows [m]; rows without one (NaN) are left out and counted."""
    every = [np.asarray(values, dtype=np.float64) for values in (forget, holdout)]
    ours, theirs = (values[~np.isnan(values)] for values in every)
    missing = sum(map(len, every)) - len(ours) - len(theirs)
    if not len(ours) or not len(theirs):
        no = float("nan")
        return Separation(no, None, no, no, no, no, len(ours), len(theirs), missing, np.full(DRAWS, no))
    wins = (ours[:, None] > theirs) + 0.5 * (ours[:, None] == theirs)
    draws = ((_weights(len(ours), SEED) @ wins) * _weights(len(theirs), SEED + 1)).sum(1).clip(0, 1)
    auc, error = float(wins.mean()), spread(draws)
    low, high = np.quantile(draws, [0.025, 0.975])
    if auc in (0, 1):
        bound, error = bound_apart(len(ours), len(theirs)), None
        low, high = (bound, 1.0) if auc else (0.0, 1 - bound)
    return Separation(
        auc,
        error,
        float(low),
        float(high),
        true_positive_rate(ours, theirs, 0.01),
        true_positive_rate(ours, theirs, 0.05),
        len(ours),
        len(theirs),
        missing,
        draws,
    )


def bound_apart(n: int, m: int) -> float:
    """The lower end of the 95% interval of an AUC of 1 between n and m scores.

    Of min(n, m) pairs that share no score all are won, whichever pairs are made: Clopper and Pearson's interval for as
    many of as many (Biometrika 26, 1934). Obuchowski and Lieber (Academic Radiology 9, 2002) on such AUCs.
    """
    return float(0.025 ** (1 / min(n, m)))


def true_positive_rate(forget: np.ndarray, holdout: np.ndarray, most: float) -> float:
    """The share of ``forget`` scores above the lowest threshold that at most the share ``most`` of ``holdout`` passes;
    with fewer than 1 / most holdout scores none of them may."""
    allowed = int(np.floor(most * len(holdout) + 1e-9))
    threshold = np.sort(holdout)[::-1][allowed] if allowed < len(holdout) else -np.inf
    return float(np.mean(forget > threshold))


def privleak(erased: ArrayLike, retrained: ArrayLike) -> np.ndarray:
    """100 ((1 - a) - (1 - a_r)) / (1 - a_r) of the AUCs a of the erased and a_r of the retrained model: 0 where they
    are alike, negative where the erased model still gives membership away, positive where it looks less like a member
    than a model that never saw the rows. NaN where a_r is 1. Shi et al., "MUSE" (arXiv:2407.06460), with AUCs turned so
    that 1 means member."""
    ours, control = np.asarray(erased, dtype=np.float64), 1 - np.asarray(retrained, dtype=np.float64)
    return np.where(control > 0, 100 * ((1 - ours) - control) / np.where(control > 0, control, 1.0), np.nan)


def _weights(count: int, seed: int) -> np.ndarray:
    """[DRAWS, count] how often each row is in each bootstrap sample, over their number."""
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=DRAWS)
    return drawn / count
