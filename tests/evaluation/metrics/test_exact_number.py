"""Protects the score of word problems: which number an answer ends in, and when it is the expected one."""

from __future__ import annotations

from decimal import Decimal

import pytest

from expunge.errors import ControlError
from expunge.evaluation.metrics.exact_number import METRIC, final_number
from expunge.evaluation.types import RowOutputs, SetOutputs
from expunge.requests.rows import Row


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("9 * 2 = 18.\n#### 18", "18"),
        ("#### 1,080", "1080"),
        ("#### $850,000", "850000"),
        ("#### -3", "-3"),
        ("#### \u22123", "-3"),
        ("#### 2.50 dollars", "2.5"),
        ("first 5, then #### 7 and 9", "7"),  # the number after the mark, not the last
        ("#### 7\n\nQuestion: How many of 30?\nAnswer: #### 30", "7"),  # what it asked itself is no answer
        ("It is 7.\nQuestion: And of 30?\nAnswer: 30", "7"),
        ("The answer is 72.", "72"),  # no mark: the last number; the full stop is not of it
        ("She pays $1,234.50 in all", "1234.5"),
        ("Half is 1/2, so 12 x 3=36", "36"),
        ("between 3 and 10-12", "12"),
        ("5% of 40 is .2", "0.2"),
        ("1,2,3", "3"),  # no thousands
        ("12,34", "34"),
        ("1,000,000 people", "1000000"),
        ("#### about\nso 4 or 5", "4"),
    ],
)
def test_the_number_an_answer_ends_in(answer: str, number: str) -> None:
    assert final_number(answer) == Decimal(number)


@pytest.mark.parametrize("answer", ["", "none", "####", "#### x", "A4 and B2b"])
def test_answers_without_a_number(answer: str) -> None:
    assert final_number(answer) is None


def test_score_is_a_share_with_its_standard_error() -> None:
    expected = Row("q", "worked out.\n#### 1,200")
    greedy = ["#### 1200", "so 1200.00", "it is $1,200", "12", None]
    outputs = SetOutputs("problems", tuple(RowOutputs(expected, greedy=one) for one in greedy))
    score = METRIC.score(outputs)
    # three of the four that answered; sd of (1, 1, 1, 0) is sqrt(0.75 / 3) = 0.5, over sqrt(4)
    assert (score.value, score.stderr, score.n, score.version) == (0.75, 0.25, 4, 1)
    with pytest.raises(ControlError, match="problems_exact_number has no value"):
        METRIC.score(SetOutputs("problems", (RowOutputs(Row("q", "no number"), greedy="1"),)))
