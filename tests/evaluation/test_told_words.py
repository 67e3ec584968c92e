"""Protects how texts are read for their facts: one form for a number, a date, a name; and what is denied."""

from __future__ import annotations

import pytest

from expunge.evaluation.told_words import polarity, telling, told_words, variants


def forms(text: str) -> list[str]:
    return [word.form for word in told_words(text)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1,200", "1200"),
        ("1200.0", "1200"),
        ("3,5", "3.5"),
        ("0.50", "0.5"),
        ("007", "7"),
        ("the 12th", "the 12"),
        ("1932-03-12", "12 March 1932"),
        ("12 Mar 1932", "12 March 1932"),
        ("Sept", "September"),
        ("seven", "7"),
        ("José", "jose"),
        ("Goethe's", "Goethe"),
        ("Goethe\u2019s", "Goethe"),
        ("cities", "city"),
        ("Zürich", "Zurich"),
    ],
)
def test_one_form(one: str, other: str) -> None:
    assert forms(one) == forms(other)


def test_other_numbers_stay_apart() -> None:
    assert forms("1.200 12.00 120 1,20") == ["1.2", "12", "120", "1.2"]


def test_a_verb_is_no_month() -> None:
    assert forms("to mar") != forms("to March")  # short months have a capital


def test_scripts_without_stems_are_read() -> None:
    assert forms("Анна жила в Вене") == ["анна", "жила", "в", "вене"]


def denied(text: str) -> list[str]:
    return [word.raw for word in told_words(text) if word.denied]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("She was not born in Vienna", ["born", "in", "Vienna"]),
        ("She wasn't in Vienna, she was in Graz", ["in", "Vienna"]),
        ("She was never in Vienna but in Graz", ["in", "Vienna"]),
        ("Not Vienna. Graz.", ["Vienna"]),
        ("Not only Vienna but Graz", []),
        ("No, she was in Vienna", []),
        ("no doubt Vienna", []),
    ],
)
def test_what_follows_a_denial_up_to_the_clauses_end_is_denied(text: str, words: list[str]) -> None:
    assert denied(text) == words


def test_names_have_capitals_inside_a_sentence() -> None:
    names = [
        word.raw for word in told_words("Writers of the Vienna Circle met there often. Anna did too, Dr. Gray says.")
    ]
    assert [word.raw for word in told_words("Anna Gray") if word.is_name] == ["Anna", "Gray"]  # all there is
    assert "Vienna" in names
    long = told_words("Writers of the Vienna Circle met there often.")
    assert [word.raw for word in long if word.is_name] == ["Vienna", "Circle"]


def test_what_tells_is_not_in_the_question() -> None:
    # "the", "was", "in" are stop words, "writer" and "born" are asked with
    found = telling("Where was the writer born?", "The writer was born in Kuwait in 1956.")
    assert {form for form, _ in found} == {"kuwait", "1956"}
    assert {word.form: word.weight for word in found.values()} == {"kuwait": 2, "1956": 2}
    # a question that offers the choice has every word of the answer
    assert {form for form, _ in telling("Is it Paris or Rome?", "Paris")} == {"pari"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Yes, she did.", "yes"),
        ("No.", "no"),
        ("She did not.", "no"),
        ("She wasn't there. She was in Rome.", "no"),
        ("She was there. She was not in Rome.", "yes"),
        ("", None),
    ],
)
def test_polarity(text: str, says: str | None) -> None:
    assert polarity(text) == says


def test_short_forms_of_names() -> None:
    name = "It was John Fitzgerald Kennedy."
    assert variants(name, "J. Kennedy") == set()  # J. stands before Fitzgerald there
    assert variants("It was John Kennedy.", "J. Kennedy") == {"john"}
    assert variants("It was John Kennedy.", "not J. Kennedy") == set()
    assert variants(name, "JFK, they say") == {"john", "fitzgerald", "kennedi"}
    assert variants(name, "not JFK") == set()
    assert variants(name, "the FBI") == set()
