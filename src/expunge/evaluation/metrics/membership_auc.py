"""Membership by min-40%: how well it tells texts to forget from texts that no model was trained on."""

from __future__ import annotations

from math import isnan

from expunge.audits.parts.membership_attacks import Separation, separation
from expunge.evaluation.metric import ModelValues, SuiteMetric, UndefinedScoreError
from expunge.evaluation.types import Score

VERSION = 1


def of(forget: str, holdout: str) -> SuiteMetric:
    """The metric over the min-k% scores called ``forget`` and ``holdout`` (``forget_min_k``)."""

    def compute(own: ModelValues, _: ModelValues | None) -> Score:
        found = separated("membership_auc", own, forget, holdout)
        return Score(found.auc, found.stderr, found.n + found.others, VERSION)

    return SuiteMetric(
        name="membership_auc",
        version=VERSION,
        summary="AUC of min-40% telling texts to forget from unseen ones: 1 they look trained on, 0.5 nothing tells.",
        requires=(forget, holdout),
        compute=compute,
        paper="2407.06460",
    )


def separated(name: str, values: ModelValues, forget: str, holdout: str) -> Separation:
    """How well the scores tell the sets apart; ``name`` is the metric's, for the error where a set has none."""
    found = separation(values.raw[forget], values.raw[holdout])
    if isnan(found.auc):
        raise UndefinedScoreError(f"{name} has no value: no row of {forget} or none of {holdout} has a score.")
    return found


METRIC = of("forget_min_k", "holdout_min_k")
