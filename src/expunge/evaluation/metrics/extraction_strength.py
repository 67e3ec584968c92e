"""How much of an answer can be left away and the model still completes the rest."""

from __future__ import annotations

import numpy as np

from expunge.evaluation.metric import UNDEFINED, SetMetric
from expunge.evaluation.types import AnswerScores, RowOutputs


def without_end(answer: AnswerScores) -> np.ndarray:
    """``hits`` [T] of the answer's tokens, its end token left out."""
    return answer.hits[:-1] if answer.has_end else answer.hits


def extraction_strength(answer: AnswerScores) -> float:
    """``1 - k/T`` with k the smallest start such that every greedy teacher-forced prediction from y[k] on is
    right.

    1: all of the answer comes from the prompt alone; 0: not even the last token does. The end token takes no
    part; an answer of nothing else gives NaN. Carlini et al. (arXiv 2012.07805) as "Towards Effective
    Evaluations and Comparisons for LLM Unlearning Methods" (Wang et al., ICLR 2025) uses it.
    """
    hits = without_end(answer)
    if len(hits) == 0:
        return UNDEFINED
    misses = np.flatnonzero(~hits)
    start = int(misses[-1]) + 1 if len(misses) else 0
    return 1.0 - start / len(hits)


def _per_row(row: RowOutputs) -> float:
    return UNDEFINED if row.answer is None else extraction_strength(row.answer)


METRIC = SetMetric(
    name="extraction_strength",
    version=1,
    summary="Share of the expected answer that the model completes by itself once given what comes before.",
    needs=frozenset({"answer"}),
    per_row=_per_row,
    paper="2012.07805",
)
