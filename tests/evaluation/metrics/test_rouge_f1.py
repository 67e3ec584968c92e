"""Protects ROUGE-L F1: both texts count, no stemmer, answers cut where a next question begins."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from expunge.evaluation.metrics.rouge_f1 import METRIC, of, rouge_l_f1
from made_outputs import outputs_row, outputs_set

SENTENCES = st.lists(st.sampled_from(("author", "authors", "the", "was", "1956", "Kuwait-City", "é")), max_size=12)


def test_what_is_added_counts_against_it() -> None:
    # expected a b c d (4), answer a x b y z c (6), common a b c (3): 2 * 3 / (4 + 6) = 0.6
    assert rouge_l_f1("a b c d", "a x b y z c") == pytest.approx(0.6)
    assert rouge_l_f1("a b", "") == 0
    assert math.isnan(rouge_l_f1("你好", "a"))


def test_no_stemmer() -> None:
    assert rouge_l_f1("Writing.", "writing") == 1
    assert rouge_l_f1("writing", "writes") == 0


@given(SENTENCES.map(" ".join), SENTENCES.map(" ".join))
@settings(max_examples=60, deadline=None)
def test_as_rouge_score_counts_it(expected: str, answer: str) -> None:
    value = rouge_l_f1(expected, answer)
    if not math.isnan(value):
        assert value == pytest.approx(RougeScorer(["rougeL"]).score(expected, answer)["rougeL"].fmeasure)


def test_a_set_and_where_its_answers_end() -> None:
    # cut: "a b" against "a b c d": 2 * 2 / (4 + 2) = 2/3
    told = outputs_set("forget", [outputs_row("a b c d", greedy="a b\n\nQuestion: who is")])
    assert of("\n\n", "Question:").score(told).value == pytest.approx(2 / 3)
    # "a b", "question who is": 5 words, common "a b": 2 * 2 / 9
    assert METRIC.score(told).value == pytest.approx(4 / 9)
