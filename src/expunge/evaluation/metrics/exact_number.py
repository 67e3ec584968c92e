"""Share of greedy answers whose final number is the expected one."""

from __future__ import annotations

import re
from decimal import Decimal

from expunge.evaluation.metric import UNDEFINED, SetMetric
from expunge.evaluation.types import RowOutputs

_NUMBER = re.compile(r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<![\w.])-?\.\d+")
_CURRENCY = re.compile(r"[$€£¥₹]\s*")
_NEXT = re.compile(r"\n\s*(?:Question|Q):|\n\n+Question\b")
_MARK = "####"


def final_number(answer: str) -> Decimal | None:
    """The number an answer ends in: the one after the first ``####``, else the last one; None where there is none.

    Currency signs and commas between thousands are passed over, and so is whatever follows a new question that the
    model went on to ask. 72, 72.0 and $72.00 are the same number.
    """
    text = _NEXT.split(answer, maxsplit=1)[0].replace("\u2212", "-")
    text = _CURRENCY.sub("", text)
    _, mark, after = text.partition(_MARK)
    found = _NUMBER.findall(after) if mark else []
    if found:
        return _number(found[0])
    found = _NUMBER.findall(text.replace(_MARK, " "))
    return _number(found[-1]) if found else None


def _number(text: str) -> Decimal:
    return Decimal(text.replace(",", ""))


def _per_row(row: RowOutputs) -> float:
    expected = final_number(row.row.answer)
    if row.greedy is None or expected is None:
        return UNDEFINED
    return float(final_number(row.greedy) == expected)


METRIC = SetMetric(
    name="exact_number",
    version=1,
    summary="Share of its answers that end in the expected number (after ####, else the last one).",
    needs=frozenset({"greedy"}),
    per_row=_per_row,
    paper="2110.14168",
    undefined="no row has a greedy answer and an expected number",
)
