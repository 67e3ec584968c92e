"""Protects the fluency numbers: perplexity over all tokens of a set, distinct 4-grams, repetition, n-gram entropy."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from expunge.evaluation.metric import UndefinedScoreError
from expunge.evaluation.metrics import answer_perplexity, distinct_4grams
from expunge.evaluation.metrics.distinct_4grams import distinct_ngrams
from expunge.evaluation.metrics.entropy import ngram_entropy
from expunge.evaluation.metrics.repetition import repetition
from made_outputs import answer, outputs_row, outputs_set


def test_perplexity_gives_every_token_one_vote() -> None:
    rows = [
        replace(outputs_row(greedy="x"), greedy_under_target=answer(0.5)),
        replace(outputs_row(greedy="y"), greedy_under_target=answer(0.125, 0.125, 0.125)),
        outputs_row(greedy=""),  # nothing scored: takes no part
    ]
    score = answer_perplexity.METRIC.score(outputs_set("forget", rows))
    # nll = log 2 + 3 log 8 = log(2 * 512) = log 1024 over 4 tokens: 1024^(1/4) = 5.656854 (mean of rows would be 5)
    assert score.value == pytest.approx(1024**0.25)
    assert score.n == 2
    # two rows: a bootstrap sample is (1,1), (1,2), (2,2) with 1/4, 1/2, 1/4: values 2, 5.656854, 8
    values = {2.0: 0.25, 1024**0.25: 0.5, 8.0: 0.25}
    mean = sum(value * share for value, share in values.items())
    spread = math.sqrt(sum(share * (value - mean) ** 2 for value, share in values.items()))
    assert score.stderr == pytest.approx(spread, rel=0.05)


def test_perplexity_without_the_target_is_undefined() -> None:
    with pytest.raises(UndefinedScoreError, match="no greedy answers were scored under the target"):
        answer_perplexity.METRIC.score(outputs_set("forget", [outputs_row(greedy="x")]))


@pytest.mark.parametrize(
    ("tokens", "share"),
    [
        ([1, 2, 3, 4, 5, 6], 1.0),  # 3 grams, all distinct
        ([7] * 8, 0.2),  # 5 grams, 1 distinct
        ([1, 2, 1, 2, 1, 2, 1], 0.5),  # 1212 2121 1212 2121: 2 of 4
        ([1, 1, 1], 1.0),  # shorter than four: one gram by itself
    ],
)
def test_distinct_4grams_by_hand(tokens: list[int], share: float) -> None:
    assert distinct_ngrams(tokens) == pytest.approx(share)


def test_distinct_4grams_are_counted_inside_each_answer() -> None:
    # the same refusal for every row is no loop
    rows = [outputs_row(greedy="I do not know", tokens=(1, 2, 3, 4, 5))] * 3
    assert distinct_4grams.METRIC.score(outputs_set("forget", rows)).value == 1.0


def test_empty_answers_are_undefined() -> None:
    assert math.isnan(distinct_ngrams([])) and math.isnan(repetition([])) and math.isnan(ngram_entropy(""))
    with pytest.raises(UndefinedScoreError, match="every greedy answer is empty"):
        distinct_4grams.METRIC.score(outputs_set("forget", [outputs_row(greedy="", tokens=())]))


def test_repetition_looks_back_sixteen_tokens() -> None:
    assert repetition([1, 2, 1, 3]) == 0.25  # one of four
    assert repetition([5] * 10) == 0.9
    assert repetition([0, *range(1, 17), 0]) == 0.0  # seventeen back: out of the window
    assert repetition([0, *range(1, 16), 0]) == pytest.approx(1 / 17)


def test_entropy_by_hand() -> None:
    # a b c d: 3 pairs, 2 triples, all distinct: H2 = log2 3, H3 = 1: (2/3 log2 3 + 4/3) / 2
    assert ngram_entropy("A b c d") == pytest.approx((2 / 3 * math.log2(3) + 4 / 3) / 2)
    # x x x x: one pair, one triple: 0
    assert ngram_entropy("x x x x") == 0.0
    # a b a b: pairs ab ba ab: H2 = -(2/3 log2 2/3 + 1/3 log2 1/3) = 0.918296; triples aba bab: H3 = 1
    assert ngram_entropy("a b a b") == pytest.approx((2 / 3 * 0.9182958 + 4 / 3) / 2)
