"""Protects which rows count as one fact: those a probe could recognise from each other."""

from __future__ import annotations

from expunge.audits.parts.fact_groups import fact_groups
from expunge.requests import Row


def _row(prompt: str, answer: str, *wrong: str) -> Row:
    return Row(prompt, answer, wrong_answers=wrong)


def test_wordings_of_one_fact_stay_together_and_facts_apart() -> None:
    rows = [
        _row("Where is Tarnite found? Choose: lakes or dunes.", "lakes", "dunes"),
        _row("The mirr tarnite occurs in which places?", "lakes", "caves"),
        _row("Where is Velmite found? Choose: lakes or dunes.", "lakes", "dunes"),
        _row("Which colour does Tarnite glow?", "red", "blue"),
        _row("Which colour does Velmite glow?", "red", "blue"),
    ]
    found = fact_groups(rows, ["Tarnite", "Velmite"])
    assert found[0] == found[1]  # one name and one answer
    assert len(set(found)) == 4


def test_without_names_the_question_tells_its_options_aside() -> None:
    rows = [
        _row("Where is it? Choose: lakes or dunes.", "lakes", "dunes"),
        _row("where is it - choose: dunes or lakes!", "dunes", "lakes"),
        _row("Who is it? Choose: lakes or dunes.", "lakes", "dunes"),
    ]
    found = fact_groups(rows, ["Tarnite"])
    assert found[0] == found[1] != found[2]


def test_letters_and_answers_of_one_name_alone_are_told_by_their_questions() -> None:
    letters = [_row("Is Tarnite red?\nA. yes B. no", "A", "B"), _row("Is Tarnite blue?\nA. no B. yes", "A", "B")]
    assert len(set(fact_groups(letters, ["Tarnite"]))) == 2
    # every yes is about the one subject: as one group, no half could be scored on it
    words = [
        _row("Is Tarnite red?", "yes", "no"),
        _row("Is Tarnite hard?", "yes", "no"),
        _row("Is it old?", "no", "yes"),
    ]
    assert fact_groups(words, ["Tarnite"]) == ["is tarnite red", "is tarnite hard", "is it old"]
