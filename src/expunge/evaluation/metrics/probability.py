"""Probability of the expected answer, length-normalised."""

from __future__ import annotations

import math

from expunge.evaluation.metric import UNDEFINED, SetMetric
from expunge.evaluation.types import AnswerScores, RowOutputs


def probability(answer: AnswerScores) -> float:
    """``exp(mean_t logp_t)`` over the answer's T tokens, end token included: the geometric mean of their
    probabilities, in (0, 1]. TOFU (arXiv 2401.06121), section 2.2."""
    return math.exp(answer.mean_logp)


def _per_row(row: RowOutputs) -> float:
    return UNDEFINED if row.answer is None else probability(row.answer)


METRIC = SetMetric(
    name="probability",
    version=1,
    summary="How likely the model finds the expected answer: geometric mean of its tokens' probabilities.",
    needs=frozenset({"answer"}),
    per_row=_per_row,
    paper="2401.06121",
)
