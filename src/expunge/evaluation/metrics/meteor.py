"""METEOR of the greedy answer against the expected one, with stems and synonyms by nltk."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from expunge.evaluation.metric import UNDEFINED, SetMetric
from expunge.evaluation.types import RowOutputs, Score, SetOutputs
from expunge.evaluation.word_alignment import aligned, runs

_ALPHA, _BETA, _GAMMA = 0.9, 3, 0.5  # weight of precision; exponent and weight of the penalty for broken runs


def meteor(expected: str, answer: str) -> float:
    """METEOR in [0, 1]: ``F (1 - (runs / matches)^3 / 2)``, F = PR / (.9 P + .1 R) of the matched words, runs those of
    matches that are neighbours in both texts.

    Words match that are equal, letter case aside, or have the same stem (Porter), or are synonyms in WordNet where
    nltk's copy of it is installed (`has_wordnet`). Words and signs are told apart by nltk's wordpunct_tokenize. Of the
    ways to match equal words one with few runs is taken (:mod:`~expunge.evaluation.word_alignment`), where nltk's
    own score takes the last free word. NaN where nothing is expected. Lavie and Agarwal 2007, "Meteor".
    """
    from nltk.tokenize import wordpunct_tokenize  # type: ignore[import-untyped]

    words, said = wordpunct_tokenize(expected.lower()), wordpunct_tokenize(answer.lower())
    if not words:
        return UNDEFINED
    pairs = aligned(words, said, _stemmer().stem, _alike)
    if not pairs:
        return 0.0
    precision, recall = len(pairs) / len(said), len(pairs) / len(words)
    mean = precision * recall / (_ALPHA * precision + (1 - _ALPHA) * recall)
    return mean * (1 - _GAMMA * (runs(pairs) / len(pairs)) ** _BETA)


def has_wordnet() -> bool:
    """Whether nltk finds WordNet among its data (``python -m nltk.downloader wordnet``)."""
    return not isinstance(_synonyms(), SimpleNamespace)


def _alike(word: str) -> set[str]:
    """A word's synonyms; those of several words are none that one word could be."""
    names = {lemma.name() for synset in _synonyms().synsets(word) for lemma in synset.lemmas()}
    return {name for name in names if "_" not in name}


@cache
def _synonyms() -> Any:
    """WordNet, or what knows no synonyms where it is not there."""
    from nltk.corpus import wordnet  # type: ignore[import-untyped]

    try:
        wordnet.ensure_loaded()
    except LookupError:
        return SimpleNamespace(synsets=lambda _word: [])
    return wordnet


@cache
def _stemmer() -> Any:
    from nltk.stem.porter import PorterStemmer  # type: ignore[import-untyped]

    return SimpleNamespace(stem=lru_cache(maxsize=65536)(PorterStemmer().stem))  # the same words come again and again


def _per_row(row: RowOutputs) -> float:
    return UNDEFINED if row.greedy is None else meteor(row.row.answer, row.greedy)


@dataclass(frozen=True)
class _Meteor(SetMetric):
    """Says with each score whether synonyms counted, since numbers with and without do not compare."""

    def score(self, outputs: SetOutputs, values: np.ndarray | None = None) -> Score:
        found = super().score(outputs, values)
        return replace(found, version=f"{self.version}, {'with' if has_wordnet() else 'without'} WordNet's synonyms")


METRIC = _Meteor(
    name="meteor",
    version=2,
    summary="METEOR of the greedy answers: words that match, by stem too and by synonyms where WordNet is installed.",
    needs=frozenset({"greedy"}),
    per_row=_per_row,
    undefined="no row has a greedy answer and an expected one",
)
