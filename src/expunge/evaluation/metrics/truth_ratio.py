"""Truth ratio R: are wrong answers as likely as the right one? Folded for a forget set."""

from __future__ import annotations

import numpy as np

from expunge.evaluation.metric import UNDEFINED, SetMetric
from expunge.evaluation.types import AnswerScores, RowOutputs

_LIMIT = 700.0  # exp of more overflows float64


def log_truth_ratio(right: AnswerScores, wrong: tuple[AnswerScores, ...]) -> float:
    """``log R = mean_i logp(wrong_i)/T_i - logp(right)/T``: the geometric mean over wrong answers, as TOFU's
    published scores take it (arXiv 2401.06121 prints the arithmetic one). ``right`` is the paraphrased right
    answer."""
    return float(np.mean([option.mean_logp for option in wrong]) - right.mean_logp)


def row_truth_ratio(row: RowOutputs) -> float:
    """R of a row, unfolded, in (0, inf): small where the model prefers the right answer, 1 where it cannot
    tell. NaN without wrong answers; the plain answer stands in where the row has no paraphrased one."""
    right = row.paraphrase or row.answer
    if right is None or not row.wrong:
        return UNDEFINED
    return float(np.exp(np.clip(log_truth_ratio(right, row.wrong), -_LIMIT, _LIMIT)))


def fold_forget(ratios: np.ndarray) -> np.ndarray:
    """``min(R, 1/R)`` [n]: 1 where right and wrong are equally likely, the aim on a forget set."""
    return np.asarray(np.minimum(ratios, 1.0 / ratios))


METRIC = SetMetric(
    name="truth_ratio",
    version=1,
    summary="How close wrong answers come to the right one: mean of min(R, 1/R), 1 = as likely.",
    needs=frozenset({"answer", "paraphrase", "wrong"}),
    per_row=row_truth_ratio,
    fold=fold_forget,
    paper="2401.06121",
    undefined="its rows carry no wrong answers",
)
