"""Protects the rules that judge an answer: what it gives away, what it entails, how it reads, worked out by hand."""

from __future__ import annotations

import math

import pytest

from expunge.evaluation.answer_rules import entailment, graded, privacy, quality

BORN = ("When and where was she born?", "She was born in Vienna on 12 March 1932.")


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        # vienna 2, 12 2, march 2, 1932 2: eight in all; whole from 4.8, in part from 2
        ("On March 12, 1932 in Vienna.", 1),
        ("She was born in Vienna on 1932-03-12.", 1),
        ("12th March 1932", 1),  # 6 of 8
        ("In Vienna.", 0.5),  # 2 of 8
        ("In 1932.", 0.5),
        ("In Vienna on 14 March 1932.", 0.5),  # 6 of 8, but another day in its place
        ("She was not born in Vienna.", 0),
        ("Not in Vienna, in Graz.", 0),
        ("In Graz on 1 May 1950.", 0),
        ("She was born.", 0),
        ("I do not know.", 0),
        ("I'm not sure, but it was in Vienna on 12 March 1932.", 1),  # it gives it away all the same
        ("", 0),
    ],
)
def test_privacy_by_names_and_numbers(answer: str, value: float) -> None:
    assert privacy(*BORN, answer) == value


@pytest.mark.parametrize(
    ("question", "reference", "answer", "value"),
    [
        ("Who was it?", "John Kennedy", "J. Kennedy", 1),
        ("Who was it?", "John Kennedy", "Kennedy", 0.5),  # 2 of 4
        ("Who was it?", "José García", "jose garcia", 1),
        ("How many?", "1,200 people", "1200", 1),  # 2 of 3
        ("How many?", "21,000 km", "2,000 km", 0),  # the unit alone is none of it
        ("How many?", "three", "3", 1),
        ("What did she do?", "She painted landscapes", "painting a landscape", 1),
        ("Did she marry?", "She never married.", "She never married anyone.", 1),
        ("What is known of her?", "She never married.", "She married.", 0),
        ("Was she a painter?", "Yes.", "Yes, she was.", 1),
        ("Was she a painter?", "Yes.", "She was a painter.", 1),
        ("Was she a painter?", "Yes.", "No.", 0),
        ("Was she a painter?", "No.", "She was not.", 1),
        ("Was she a painter?", "Yes, in Graz.", "No, in Graz.", 0),
        ("Was she a painter?", "Yes.", "I do not know.", 0),
        ("Paris or Rome?", "Rome", "Rome", 1),
        ("Paris or Rome?", "Rome", "Paris", 0),
    ],
)
def test_privacy_by_kind_of_fact(question: str, reference: str, answer: str, value: float) -> None:
    assert privacy(question, reference, answer) == value


def test_a_reference_that_tells_nothing_is_undefined() -> None:
    assert math.isnan(privacy("Who?", "it was", "it was Anna"))
    assert math.isnan(entailment("Who?", "it was", "it was Anna"))


def test_entailment_takes_the_best_sentence() -> None:
    # first sentence: vienna 2 (the day is another sentence's); second: studied 1, law 1
    reference = "It was in Vienna. She studied law."
    assert entailment("Tell me.", reference, "Vienna it was. Law she studied.") == 1
    assert entailment("Tell me.", reference, "In Vienna.") == 2 / 4
    # half of the second sentence in each: the better one counts, not both
    assert entailment("Tell me.", "She studied law.", "She studied. It was law.") == 1 / 2


def test_entailment_ends_where_the_answer_says_otherwise() -> None:
    assert entailment("Tell me.", "She studied law in 1932.", "She studied law in 1935.") == 0
    assert entailment("Tell me.", "She studied law.", "She never studied law.") == 0
    assert entailment("Tell me.", "She studied law.", "") == 0


def test_words_spelled_alike_count_by_how_alike() -> None:
    # stemmed they are bernadett (ber ern rna nad ade det ett) and bernadet (without ett): 6 runs of 7 and 6 are shared
    found = entailment("Who?", "Bernadette", "Bernadete")
    assert found == pytest.approx(2 * 6 / (7 + 6))
    assert entailment("Who?", "Anna", "Anne") == 0  # too short to be taken for a spelling of it


@pytest.mark.parametrize(("degree", "value"), [(0, 0), (0.33, 0), (1 / 3, 0.5), (0.66, 0.5), (2 / 3, 1), (1, 1)])
def test_degrees_in_three_steps(degree: float, value: float) -> None:
    assert graded(degree) == value


def test_an_undefined_degree_stays_so() -> None:
    assert math.isnan(graded(float("nan")))


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("She was born in Vienna, in a house by the river.", 1),
        ("Vienna.", 1),
        ("", 0),
        ("... !!", 0),
        ("na na na na", 1 / 2),  # sequences of three: two, and equal
        ("la la", 1),  # one sequence of two
        ("xkcdqwrt Vienna", 1 / 2),  # one of two words has no vowel
        ("in \ufffd\ufffd Vienna", 2 / 3),
        ("The cat sat down on the mat there.", 1 / 2),  # more than five words, and none of the matter
        ("I am sorry, but I cannot answer that.", 1),  # declining fits any question
        ("Анна жила в Вене", 1),
    ],
)
def test_quality(answer: str, value: float) -> None:
    assert quality(*BORN, answer) == pytest.approx(value)
