"""Share of items whose greedy answer is right: the number, code that passes its asserts, the span."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from expunge.evaluation.code_answers import CodeRow
from expunge.evaluation.metric import SetMetric
from expunge.evaluation.metrics.exact_number import METRIC as NUMBER
from expunge.evaluation.metrics.exact_span import METRIC as SPAN
from expunge.evaluation.metrics.pass_at_1 import METRIC as CODE
from expunge.evaluation.reading import ReadingRow
from expunge.evaluation.types import RowOutputs, SetOutputs

_OPENING = re.compile(r"\s*[^\W\d_]+:\s+")  # a word and a colon: `Answer: `


@dataclass(frozen=True)
class _BestFit(SetMetric):
    """Gives every row to the metric of its kind; the code of all rows is run together."""

    def values(self, outputs: SetOutputs) -> np.ndarray:
        values = np.full(len(outputs.rows), np.nan)
        for metric in (NUMBER, SPAN, CODE):
            places = [i for i, one in enumerate(outputs.rows) if _metric_of(one) is metric]
            if places:
                values[places] = metric.values(SetOutputs(outputs.name, tuple(_bare(outputs.rows[i]) for i in places)))
        return values


def _per_row(row: RowOutputs) -> float:
    return float(_metric_of(row).values(SetOutputs("", (_bare(row),)))[0])


def _metric_of(row: RowOutputs) -> SetMetric:
    if isinstance(row.row, CodeRow):
        return CODE
    return SPAN if isinstance(row.row, ReadingRow) else NUMBER


def _bare(row: RowOutputs) -> RowOutputs:
    """The row with its answer without a word and a colon before it."""
    return row if row.greedy is None else replace(row, greedy=_OPENING.sub("", row.greedy, count=1))


METRIC = _BestFit(
    name="solved",
    version=1,
    summary="Share of its answers that are right: the final number, code that passes its tests, or the span asked for.",
    needs=frozenset({"greedy"}),
    per_row=_per_row,
    undefined="no row has a greedy answer and something to check it against",
)
