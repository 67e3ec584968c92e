"""Privacy leakage: does membership show more, or less, than in a model that never saw the texts?"""

from __future__ import annotations

from math import isnan

from expunge.audits.parts import membership_attacks
from expunge.errors import ControlError
from expunge.evaluation.metric import ModelValues, SuiteMetric, UndefinedScoreError
from expunge.evaluation.metrics.membership_auc import separated
from expunge.evaluation.types import Score
from expunge.evaluation.uncertainty import spread

VERSION = 1


def of(forget: str, holdout: str) -> SuiteMetric:
    """The metric over the min-k% scores called ``forget`` and ``holdout`` (``forget_min_k``)."""

    def compute(own: ModelValues, retrained: ModelValues | None) -> Score:
        if retrained is None:
            raise ControlError("privleak needs a retrained model: pass --retrained DIR (expunge train makes one).")
        ours, control = (separated("privleak", values, forget, holdout) for values in (own, retrained))
        value = float(membership_attacks.privleak(ours.auc, control.auc))
        if isnan(value):
            raise UndefinedScoreError(
                "privleak has no value: it divides by 1 - AUC of the retrained model, which is 0."
            )
        # both models' bootstrap samples hold the same rows
        error = spread(membership_attacks.privleak(ours.draws, control.draws))
        return Score(value, error, ours.n + ours.others, VERSION)

    return SuiteMetric(
        name="privleak",
        version=VERSION,
        summary="1 - AUC of min-40% against the retrained model's, in percent beyond it: 0 alike, below 0 it leaks.",
        requires=(forget, holdout),
        compute=compute,
        controls=frozenset({"retrained"}),
        paper="2407.06460",
    )


METRIC = of("forget_min_k", "holdout_min_k")
