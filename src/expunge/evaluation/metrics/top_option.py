"""Share of multiple-choice questions whose right option is the likeliest."""

from __future__ import annotations

import numpy as np

from expunge.evaluation.metric import UNDEFINED, SetMetric
from expunge.evaluation.types import AnswerScores, RowOutputs

_TIE = 1e-6  # in log-probability a token: options that a model cannot tell apart differ by rounding


def top_share(right: float, wrong: list[float]) -> float:
    """1 where ``right`` is above all of ``wrong``, 1/k where k options tie at the top with it among them, else 0: what
    picking at random among the likeliest gets."""
    top = max(right, *wrong)
    tied = sum(value >= top - _TIE for value in (right, *wrong))
    return 1 / tied if right >= top - _TIE else 0.0


def _without_end(answer: AnswerScores) -> float:
    """Mean log-probability of an option's tokens [T], its end token left out."""
    kept = answer.logps[:-1] if answer.has_end and len(answer.logps) > 1 else answer.logps
    return float(np.mean(kept, dtype=np.float64))


def _per_row(row: RowOutputs) -> float:
    if row.answer is None or not row.wrong:
        return UNDEFINED
    return top_share(_without_end(row.answer), [_without_end(one) for one in row.wrong])


METRIC = SetMetric(
    name="top_option",
    version=1,
    summary="Share of questions whose right option is the likeliest, by log-probability a token; ties share.",
    needs=frozenset({"answer", "wrong"}),
    per_row=_per_row,
    paper="2009.03300",
    undefined="its rows carry no wrong options",
)
