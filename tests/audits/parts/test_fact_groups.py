"""Protects which rows count as one fact: those a probe could recognise from each other."""

from __future__ import annotations

from expunge.audits.parts.fact_groups import fact_groups, joined_facts
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


def test_letters_and_yes_and_no_join_no_facts() -> None:
    letters = [_row(f"What is stone {n}?\nA. red B. blue C. grey D. white", "ABCD"[n % 4]) for n in range(8)]
    assert joined_facts(letters) == list(range(8))
    answers = [_row(f"Is stone {n} red?", ("Yes.", "No.", "true")[n % 3]) for n in range(5)]
    assert joined_facts(answers) == list(range(5))
    # the same question is one fact, whatever its options
    assert joined_facts([*letters[:2], _row("What is stone 1? A. red B. blue C. grey D. white", "B")]) == [0, 1, 1]


def test_the_same_answer_joins_few_rows_and_options_none() -> None:
    few = [_row(f"Question {n}?", " in  LAHTI" if n % 2 else "In Lahti.") for n in range(3)]
    assert joined_facts([*few, _row("And this?", "In Oslo.")]) == [0, 0, 0, 3]
    assert joined_facts([*few, _row("And this?", "In Lahti")]) == [0, 1, 2, 3]  # four of them are no longer few
    options = [_row("Which colour is it?", "red", "blue"), _row("Which is that?", "red"), _row("And the sky?", "blue")]
    assert joined_facts(options) == [0, 0, 2]  # red is joined, and no row offers it
    assert joined_facts([*options, _row("The sea?", "blue", "red")]) == [0, 1, 2, 3]


def test_names_that_tell_rows_apart_join_those_with_one_answer() -> None:
    rows = [_row(f"{how} {name} found?", "lakes", "dunes") for name in ("Tarnite", "Velmite") for how in "abcd"]
    assert joined_facts(rows, ["Tarnite", "Velmite"]) == [0, 0, 0, 0, 4, 4, 4, 4]
    # one subject's name tells nothing: as one fact, no row could be asked
    assert joined_facts(rows[:4], ["Tarnite"]) == [0, 1, 2, 3]
