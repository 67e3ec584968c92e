"""Protects ROUGE-L recall: longest common subsequence over the expected words, stemmed, as rouge_score counts it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from expunge.evaluation.metrics.rouge import METRIC, common_subsequence, rouge_l_recall
from made_outputs import outputs_row, outputs_set

WORDS = ("author", "authors", "writing", "the", "was", "born", "in", "1956", "Kuwait-City", "é")
SENTENCES = st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join)


def test_order_matters() -> None:
    # expected: a b c d (4 words); answer: d a x c: common subsequence "a c" (2): 2/4
    assert rouge_l_recall("a b c d", "d a x c") == 0.5


def test_recall_does_not_punish_what_is_added() -> None:
    assert rouge_l_recall("born in Kuwait", "She was born in the city of Kuwait in 1956") == 1.0


def test_stemmed_and_without_case_or_punctuation() -> None:
    # "writes" and "writing" stem to "write"; "Books" and "book" to "book"
    assert rouge_l_recall("She writes Books.", "she WRITING book") == 1.0


def test_nothing_answered_and_nothing_expected() -> None:
    assert rouge_l_recall("a b", "") == 0.0
    assert math.isnan(rouge_l_recall("你好", "你好"))  # no ASCII word: ROUGE's tokenizer sees nothing


def test_common_subsequence_by_hand() -> None:
    assert common_subsequence("ABCBDAB", "BDCABA") == 4  # the textbook pair: BCBA


@settings(deadline=None, max_examples=60)
@given(SENTENCES, SENTENCES)
def test_equals_the_reference_scorer(expected: str, answer: str) -> None:
    theirs = RougeScorer(["rougeL"], use_stemmer=True).score(expected, answer)["rougeL"].recall
    ours = rouge_l_recall(expected, answer)
    assert math.isnan(ours) or ours == pytest.approx(theirs)


def test_rows_without_a_greedy_answer_take_no_part() -> None:
    score = METRIC.score(outputs_set("forget", [outputs_row("a b", greedy="a"), outputs_row("a b")]))
    assert (score.value, score.n) == (0.5, 1)
