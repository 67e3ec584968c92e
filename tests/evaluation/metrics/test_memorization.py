"""Protects extraction strength and exact memorization: the suffix rule, no match is 0, the end token left out."""

from __future__ import annotations

import math

import pytest

from expunge.evaluation.metrics.exact_memorization import exact_memorization
from expunge.evaluation.metrics.extraction_strength import extraction_strength
from expunge.evaluation.types import AnswerScores
from made_outputs import answer


def marked(hits: str, has_end: bool = True) -> AnswerScores:
    return answer(*[0.5] * len(hits), hits=hits, has_end=has_end)


@pytest.mark.parametrize(
    ("hits", "has_end", "strength", "exact"),
    [
        ("11111", True, 1.0, 1.0),  # k = 0 of T = 4
        ("01111", True, 0.75, 0.75),  # k = 1: 1 - 1/4
        ("10110", True, 0.5, 0.75),  # k = 2: the end token, wrong here, takes no part
        ("11101", True, 0.0, 0.75),  # the last token is wrong: no suffix matches, 0 and not 1/T
        ("00001", True, 0.0, 0.0),
        ("0011", False, 0.5, 0.5),  # cut off before its end token: all four tokens are content
    ],
)
def test_by_hand(hits: str, has_end: bool, strength: float, exact: float) -> None:
    assert extraction_strength(marked(hits, has_end)) == pytest.approx(strength)
    assert exact_memorization(marked(hits, has_end)) == pytest.approx(exact)


def test_nothing_but_an_end_token_is_undefined() -> None:
    assert math.isnan(extraction_strength(marked("1")))
    assert math.isnan(exact_memorization(marked("1")))
