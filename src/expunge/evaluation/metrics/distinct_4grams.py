"""Share of distinct 4-grams in greedy answers: low where a model loops."""

from __future__ import annotations

from collections.abc import Sequence

from expunge.evaluation.metric import UNDEFINED, SetMetric
from expunge.evaluation.types import RowOutputs

_N = 4


def distinct_ngrams(tokens: Sequence[int], n: int = _N) -> float:
    """Distinct n-grams of token ids over all n-grams of one answer, in (0, 1].

    An answer of fewer than n tokens is one gram by itself and counts as 1 (nothing is repeated); an empty
    answer gives NaN. Counted inside each answer, so that many rows with the same short refusal do not look
    like a loop.
    """
    if len(tokens) == 0:
        return UNDEFINED
    if len(tokens) < n:
        return 1.0
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams)


def _per_row(row: RowOutputs) -> float:
    return UNDEFINED if row.greedy is None else distinct_ngrams(row.greedy_tokens)


METRIC = SetMetric(
    name="distinct_4grams",
    version=1,
    summary="Share of distinct 4-token sequences in each greedy answer; near 0 where the model loops.",
    needs=frozenset({"greedy"}),
    per_row=_per_row,
    paper="1510.03055",
    undefined="every greedy answer is empty",
)
