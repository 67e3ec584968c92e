"""Share of greedy answers that contain a right answer in one piece."""

from __future__ import annotations

from expunge.evaluation.metric import UNDEFINED, SetMetric
from expunge.evaluation.reading import ReadingRow, contains, first_line, words_of
from expunge.evaluation.types import RowOutputs


def _per_row(row: RowOutputs) -> float:
    asked = row.row
    if not isinstance(asked, ReadingRow) or row.greedy is None:
        return UNDEFINED
    words = words_of(first_line(row.greedy), asked.language)
    return float(any(contains(words, words_of(right, asked.language)) for right in asked.right))


METRIC = SetMetric(
    name="contained_span",
    version=1,
    summary="Share of its answers that contain a right one in one piece, as whole words.",
    needs=frozenset({"greedy"}),
    per_row=_per_row,
    paper="1910.07475",
    undefined="no row is a reading question with a greedy answer",
)
