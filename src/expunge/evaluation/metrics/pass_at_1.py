"""Share of greedy answers whose code passes its tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from expunge.evaluation.code_answers import run_answers
from expunge.evaluation.metric import UNDEFINED, SetMetric
from expunge.evaluation.types import RowOutputs, SetOutputs


@dataclass(frozen=True)
class _RunMetric(SetMetric):
    """Runs the code of all rows together, several at a time, instead of row by row, and says how each ended."""

    def values(self, outputs: SetOutputs) -> np.ndarray:
        return self.examined(outputs)[0]

    def examined(self, outputs: SetOutputs) -> tuple[np.ndarray, Sequence[Mapping[str, Any] | None]]:
        outcomes = run_answers(outputs.rows)
        passed = np.array([UNDEFINED if one is None else float(one.passed) for one in outcomes])
        return passed, [None if one is None else one.described() for one in outcomes]


def _per_row(row: RowOutputs) -> float:
    (outcome,) = run_answers([row])
    return UNDEFINED if outcome is None else float(outcome.passed)


METRIC = _RunMetric(
    name="pass_at_1",
    version=1,
    summary="Share of its answers whose code passes all tests of its task, run in a sandbox.",
    needs=frozenset({"greedy"}),
    per_row=_per_row,
    paper="2108.07732",
    undefined="no row has tests and a greedy answer",
)
