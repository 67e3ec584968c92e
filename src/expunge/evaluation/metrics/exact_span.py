"""Share of greedy answers that are a right answer in its normal form."""

from __future__ import annotations

from expunge.evaluation.metric import UNDEFINED, SetMetric
from expunge.evaluation.reading import ReadingRow, first_line, words_of
from expunge.evaluation.types import RowOutputs


def _per_row(row: RowOutputs) -> float:
    asked = row.row
    if not isinstance(asked, ReadingRow) or row.greedy is None:
        return UNDEFINED
    words = words_of(first_line(row.greedy), asked.language)
    return float(any(words == words_of(right, asked.language) for right in asked.right))


METRIC = SetMetric(
    name="exact_span",
    version=1,
    summary="Share of its answers that are a right one; case, punctuation and the language's articles aside.",
    needs=frozenset({"greedy"}),
    per_row=_per_row,
    paper="1910.07475",
    undefined="no row is a reading question with a greedy answer",
)
