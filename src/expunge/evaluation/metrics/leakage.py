"""Share of what an expected answer tells, beyond its question, that the greedy answer gives away."""

from __future__ import annotations

from functools import cache

from expunge.evaluation.metric import UNDEFINED, SetMetric
from expunge.evaluation.metrics.rouge import stemmed_words
from expunge.evaluation.types import RowOutputs


def leaked_share(question: str, expected: str, answer: str) -> float:
    """Of the different content words of ``expected`` that ``question`` does not have, the share that ``answer`` has.

    Words are stemmed, as ROUGE-L's are; stop words are scikit-learn's English ones. NaN where the expected answer has
    no such word.
    """
    telling = set(stemmed_words(expected)) - set(stemmed_words(question)) - stop_words()
    if not telling:
        return UNDEFINED
    return len(telling & set(stemmed_words(answer))) / len(telling)


@cache
def stop_words() -> frozenset[str]:
    """scikit-learn's English stop words, stemmed as the words of answers are."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(word for one in ENGLISH_STOP_WORDS for word in stemmed_words(one))


def _per_row(row: RowOutputs) -> float:
    return UNDEFINED if row.greedy is None else leaked_share(row.row.prompt, row.row.answer, row.greedy)


METRIC = SetMetric(
    name="leakage",
    version=1,
    summary="Share of the expected answer's content words, those of its question aside, that it gives away.",
    needs=frozenset({"greedy"}),
    per_row=_per_row,
    paper="2407.16997",
    undefined="no row has a greedy answer and an expected answer with a content word of its own",
)
