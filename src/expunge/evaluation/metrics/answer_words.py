"""Words of a greedy answer: whether a model still has something to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from expunge.evaluation.metric import UNDEFINED, SetMetric
from expunge.evaluation.types import RowOutputs, SetOutputs


@dataclass(frozen=True)
class _WithText(SetMetric):
    """Hands the answers themselves on to scores that compare one model's with another's."""

    def examined(self, outputs: SetOutputs) -> tuple[np.ndarray, Sequence[Mapping[str, Any] | None]]:
        return self.values(outputs), [None if row.greedy is None else {"text": row.greedy} for row in outputs.rows]


def _per_row(row: RowOutputs) -> float:
    return UNDEFINED if row.greedy is None else float(len(row.greedy.split()))


METRIC = _WithText(
    name="answer_words",
    version=1,
    summary="Mean number of words of its greedy answers.",
    needs=frozenset({"greedy"}),
    per_row=_per_row,
    undefined="no row has a greedy answer",
)
