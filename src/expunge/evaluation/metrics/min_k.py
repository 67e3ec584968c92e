"""Min-40%: the mean log-probability of an answer's least likely tokens, by which texts that were learned stand out."""

from __future__ import annotations

from expunge.audits.parts.membership_attacks import least_share
from expunge.evaluation.metric import UNDEFINED, SetMetric
from expunge.evaluation.types import RowOutputs

PERCENT = 40  # as privacy leakage takes it (arXiv 2407.06460)


def _per_row(row: RowOutputs) -> float:
    if row.answer is None:
        return UNDEFINED
    # every answer ends in the end token, which says nothing of what was learned
    return least_share(row.answer.logps[:-1] if row.answer.has_end else row.answer.logps, PERCENT)


METRIC = SetMetric(
    name="min_k",
    version=1,
    summary="Mean log-probability of the least likely 40% of the expected answer's tokens, end token left out.",
    needs=frozenset({"answer"}),
    per_row=_per_row,
    paper="2310.16789",
    undefined="no row has an answer of more than its end token",
)
