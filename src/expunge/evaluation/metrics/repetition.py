"""Share of a greedy answer's tokens that repeat a recent one."""

from __future__ import annotations

from collections.abc import Sequence

from expunge.evaluation.metric import UNDEFINED, SetMetric
from expunge.evaluation.types import RowOutputs

_WINDOW = 16


def repetition(tokens: Sequence[int], window: int = _WINDOW) -> float:
    """Share of tokens that stand among the ``window`` tokens before them, in [0, 1): the "rep/l" of Welleck
    et al. (arXiv 1908.04319) on the model's own answers, l 16. Ordinary prose repeats some (commas,
    articles), so read it beside the target's. NaN for an empty answer."""
    if len(tokens) == 0:
        return UNDEFINED
    repeated = sum(token in tokens[max(0, i - window) : i] for i, token in enumerate(tokens))
    return repeated / len(tokens)


def _per_row(row: RowOutputs) -> float:
    return UNDEFINED if row.greedy is None else repetition(row.greedy_tokens)


METRIC = SetMetric(
    name="repetition",
    version=1,
    summary="Share of greedy tokens that repeat one of the 16 before them.",
    needs=frozenset({"greedy"}),
    per_row=_per_row,
    paper="1908.04319",
    undefined="every greedy answer is empty",
)
