"""Words that greedy answers share with the right ones, as SQuAD counts them, per language."""

from __future__ import annotations

from expunge.evaluation.metric import UNDEFINED, SetMetric
from expunge.evaluation.reading import ReadingRow, f1, first_line, words_of
from expunge.evaluation.types import RowOutputs


def _per_row(row: RowOutputs) -> float:
    asked = row.row
    if not isinstance(asked, ReadingRow) or row.greedy is None:
        return UNDEFINED
    words = words_of(first_line(row.greedy), asked.language)
    return max(f1(words, words_of(right, asked.language)) for right in asked.right)


METRIC = SetMetric(
    name="token_f1",
    version=1,
    summary="Overlap of its answers' words with those of the nearest right answer (F1).",
    needs=frozenset({"greedy"}),
    per_row=_per_row,
    paper="1910.07475",
    undefined="no row is a reading question with a greedy answer",
)
