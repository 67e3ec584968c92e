"""Probability of the right answer among the right and the wrong ones (multiple choice)."""

from __future__ import annotations

import numpy as np

from expunge.evaluation.metric import UNDEFINED, SetMetric
from expunge.evaluation.types import AnswerScores, RowOutputs


def choice_probability(right: AnswerScores, wrong: tuple[AnswerScores, ...]) -> float:
    """``p(right) / (p(right) + sum_i p(wrong_i))`` with p the length-normalised probability, in (0, 1).

    TOFU (arXiv 2401.06121), section 2.2, for real authors and world facts. Worked out from differences of
    log-probabilities, so that options that are all very unlikely still compare.
    """
    gaps = np.array([option.mean_logp - right.mean_logp for option in wrong])
    return float(1.0 / (1.0 + np.exp(np.minimum(gaps, 700.0)).sum()))


def _per_row(row: RowOutputs) -> float:
    if row.answer is None or not row.wrong:
        return UNDEFINED
    return choice_probability(row.answer, row.wrong)


METRIC = SetMetric(
    name="choice_probability",
    version=1,
    summary="Probability of the right answer, as a share of that of the right and the wrong ones together.",
    needs=frozenset({"answer", "wrong"}),
    per_row=_per_row,
    key="probability",
    paper="2401.06121",
    undefined="its rows carry no wrong answers",
)
