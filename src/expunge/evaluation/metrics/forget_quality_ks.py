"""The statistic behind forget quality: the KS distance D, which unlike the p-value does not shrink with the
rows."""

from __future__ import annotations

from expunge.evaluation.metric import ModelValues, SuiteMetric
from expunge.evaluation.metrics.forget_quality import RATIOS, compare
from expunge.evaluation.types import Score


def _compute(own: ModelValues, retrained: ModelValues | None) -> Score:
    statistic, _, count = compare(own, retrained)
    return Score(statistic, None, count, METRIC.version)


METRIC = SuiteMetric(
    name="forget_quality_ks",
    version=1,
    summary="KS distance D between its truth ratios and the retrained model's on the forget set.",
    requires=(RATIOS,),
    compute=_compute,
    controls=frozenset({"retrained"}),
    paper="2401.06121",
)
