"""Entropy of the words of greedy answers: low where a model says the same few words again and again."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from expunge.evaluation.metric import UNDEFINED, SetMetric
from expunge.evaluation.types import RowOutputs

_WORD = re.compile(r"\w+|[^\w\s]")
_WEIGHTS = {2: 2 / 3, 3: 4 / 3}


def ngram_entropy(text: str) -> float:
    """Weighted n-gram entropy of one answer in bits: ``(2/3 H_2 + 4/3 H_3) / 2`` with H_n the Shannon entropy
    of its word n-grams (lower case; a punctuation mark is a word).

    Zhang et al. (arXiv 1809.05972) with the weights of ROME (arXiv 2202.05262). It grows with the length of
    an answer (at most log2 of its number of n-grams), so it is read beside the target's. 0 for one or two
    words; NaN for none.
    """
    words = _WORD.findall(text.lower())
    if not words:
        return UNDEFINED
    return sum(weight * _entropy(words, n) for n, weight in _WEIGHTS.items()) / len(_WEIGHTS)


def _entropy(words: list[str], n: int) -> float:
    counts = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    if not counts:
        return 0.0
    shares = np.array(list(counts.values()), dtype=np.float64) / sum(counts.values())
    return float(-(shares * np.log2(shares)).sum())


def _per_row(row: RowOutputs) -> float:
    return UNDEFINED if row.greedy is None else ngram_entropy(row.greedy)


METRIC = SetMetric(
    name="entropy",
    version=1,
    summary="Entropy of each greedy answer's word pairs and triples, in bits; near 0 where the model loops.",
    needs=frozenset({"greedy"}),
    per_row=_per_row,
    paper="1809.05972",
    undefined="every greedy answer is empty",
)
