"""BLEU of the greedy answers against the target's own."""

from __future__ import annotations

from expunge.evaluation.as_target import as_target
from expunge.evaluation.metric import SuiteMetric
from expunge.evaluation.metrics.bleu import bleu


def of(set_name: str, name: str = "") -> SuiteMetric:
    """The metric over the answers of one set, called ``<set>_as_target_bleu`` unless named."""
    return as_target(
        name or f"{set_name}_as_target_bleu",
        set_name,
        bleu,
        summary="Sentence BLEU of its greedy answers against the target's own: 1 it still says the same.",
        paper="2406.11614",
    )


METRIC = of("forget", "as_target_bleu")
