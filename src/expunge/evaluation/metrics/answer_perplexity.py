"""Perplexity of a model's greedy answers under the target: would the model before have said such a thing?"""

from __future__ import annotations

import numpy as np

from expunge.evaluation.metric import UNDEFINED, SetMetric
from expunge.evaluation.types import RowOutputs

_LIMIT = 700.0  # exp of more overflows float64


def perplexity(nll_and_tokens: np.ndarray) -> np.ndarray:
    """``exp(total nll / total tokens)`` of column means [.., 2] (nll summed per answer, tokens per answer):
    one token, one vote over the whole set, the end token included where the model gave one."""
    return np.asarray(np.exp(np.minimum(nll_and_tokens[..., 0] / nll_and_tokens[..., 1], _LIMIT)))


def nll_and_tokens(row: RowOutputs) -> tuple[float, ...]:
    """Of the greedy answer under the target: its summed nll and its tokens; undefined where it was not scored."""
    scored = row.greedy_under_target
    if scored is None or len(scored.logps) == 0:
        return (UNDEFINED, UNDEFINED)
    return (-float(np.sum(scored.logps, dtype=np.float64)), float(len(scored.logps)))


def _per_row(row: RowOutputs) -> float:
    return float(perplexity(np.array(nll_and_tokens(row))))


METRIC = SetMetric(
    name="answer_perplexity",
    version=1,
    summary="Perplexity of the greedy answers under the target; very high for what is no language.",
    needs=frozenset({"greedy", "greedy_under_target"}),
    per_row=_per_row,
    parts=nll_and_tokens,
    combine=perplexity,
    undefined="no greedy answers were scored under the target",
)
