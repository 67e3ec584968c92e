"""Share of the expected answer's tokens that the model predicts exactly."""

from __future__ import annotations

from expunge.evaluation.metric import UNDEFINED, SetMetric
from expunge.evaluation.metrics.extraction_strength import without_end
from expunge.evaluation.types import AnswerScores, RowOutputs


def exact_memorization(answer: AnswerScores) -> float:
    """``mean_t [argmax_t == y_t]`` under teacher forcing, the end token left out, in [0, 1]. Tirumala et al.
    (arXiv 2205.10770)."""
    hits = without_end(answer)
    return float(hits.mean()) if len(hits) else UNDEFINED


def _per_row(row: RowOutputs) -> float:
    return UNDEFINED if row.answer is None else exact_memorization(row.answer)


METRIC = SetMetric(
    name="exact_memorization",
    version=1,
    summary="Share of the expected answer's tokens that are the model's first choice.",
    needs=frozenset({"answer"}),
    per_row=_per_row,
    paper="2205.10770",
)
