"""The skill that suffered most among those to keep, as a share of what the target solves."""

from __future__ import annotations

import numpy as np

from expunge.evaluation.metric import ModelValues, SuiteMetric
from expunge.evaluation.metrics.forgotten_left import share
from expunge.evaluation.types import Score
from expunge.evaluation.uncertainty import SEED, spread

VERSION = 1


def of(*keys: str) -> SuiteMetric:
    """The metric over scores ``keys``, each of a skill that must stay."""

    def compute(own: ModelValues, target: ModelValues | None) -> Score:
        # the skills' rows are different ones: each is resampled by itself
        found = [share("least_kept", key, own, target, seed=SEED + i) for i, key in enumerate(keys)]
        draws = np.stack([one[1] for one in found]).min(axis=0)
        return Score(min(one[0] for one in found), spread(draws), sum(one[2] for one in found), VERSION)

    return SuiteMetric(
        name="least_kept",
        version=VERSION,
        summary="Smallest share of the target's score that is left on any skill to keep.",
        requires=keys,
        compute=compute,
        against="target",
        paper="2503.21730",
    )


METRIC = of("retain_solved")
