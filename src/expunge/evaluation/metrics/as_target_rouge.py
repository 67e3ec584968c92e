"""ROUGE-L F1 of the greedy answers against the target's own."""

from __future__ import annotations

from expunge.evaluation.as_target import as_target
from expunge.evaluation.metric import SuiteMetric
from expunge.evaluation.metrics.rouge_f1 import rouge_l_f1


def of(set_name: str, name: str = "") -> SuiteMetric:
    """The metric over the answers of one set, called ``<set>_as_target_rouge`` unless named."""
    return as_target(
        name or f"{set_name}_as_target_rouge",
        set_name,
        rouge_l_f1,
        summary="ROUGE-L F1 of its greedy answers against the target's own: 1 it still says the same.",
        paper="2406.11614",
    )


METRIC = of("forget", "as_target_rouge")
