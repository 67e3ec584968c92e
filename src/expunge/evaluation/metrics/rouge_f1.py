"""ROUGE-L F1 of the greedy answer against the expected one, unstemmed."""

from __future__ import annotations

from functools import lru_cache

from expunge.evaluation.metric import UNDEFINED, SetMetric
from expunge.evaluation.metrics.rouge import common_subsequence
from expunge.evaluation.types import RowOutputs


def rouge_l_f1(expected: str, answer: str) -> float:
    """2 L / (m + n) with L the length of the longest common subsequence of the m expected and n given words, in [0, 1].

    Words are those of the ``rouge_score`` package without its stemmer (lower case, ASCII letters and digits); an
    expected answer without any such word gives NaN. Lin 2004, "ROUGE".
    """
    words, given = _words(expected), _words(answer)
    if not words:
        return UNDEFINED
    return 2 * common_subsequence(words, given) / (len(words) + len(given))


@lru_cache(maxsize=16384)
def _words(text: str) -> tuple[str, ...]:
    from rouge_score.tokenize import tokenize

    return tuple(tokenize(text, None))


def of(*ends: str) -> SetMetric:
    """The metric over answers cut before the first of ``ends``: where a model that was shown solved examples goes on to
    write another."""

    def per_row(row: RowOutputs) -> float:
        if row.greedy is None:
            return UNDEFINED
        answer = row.greedy
        for end in ends:
            answer = answer.partition(end)[0]
        return rouge_l_f1(row.row.answer, answer)

    return SetMetric(
        name="rouge_f1",
        version=1,
        summary="ROUGE-L F1: words that the greedy and the expected answer have in the same order.",
        needs=frozenset({"greedy"}),
        per_row=per_row,
        paper="2407.06460",
        undefined="no row has a greedy answer and an expected answer with words in ASCII letters",
    )


METRIC = of()
