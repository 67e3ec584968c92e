"""Protects the verdict over a forgotten skill or subject: told apart from a model that never learned it or not."""

from __future__ import annotations

import pytest

from expunge.evaluation.verdict import judge

SKILL = {
    "utility_target": 1.0,
    "utility_erased": 0.97,
    "utility_retrained": 0.99,
    "forget_solved_n": 100.0,
    "forget_solved_target": 0.98,
    "forget_solved_erased": 0.02,
    "forget_solved_retrained": 0.0,
    "forget_probability_target": 0.99,
    "forget_probability_erased": 0.02,
    "forget_probability_retrained": 0.03,
    "forget_probability_p": 0.4,
    "forget_probability_n": 100.0,
}


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({}, "indistinguishable from never trained"),
        # Fisher, one-sided, against 0 of 100: 4 give C(100,4)/C(200,4) = .061, 5 give .030
        ({"forget_solved_erased": 0.04}, "indistinguishable from never trained"),
        ({"forget_solved_erased": 0.05}, "not forgotten"),
        ({"forget_solved_erased": 0.5, "forget_solved_retrained": 0.5}, "indistinguishable from never trained"),
        ({"forget_solved_retrained": 0.5}, "no claim"),
        ({"forget_probability_erased": 0.4, "forget_probability_p": 0.001}, "still knows the answers"),
        ({"forget_probability_erased": 0.001, "forget_probability_p": 0.001}, "no claim"),
        ({"utility_erased": 0.7}, "broken"),
        ({"forget_distinct_4grams_erased": 0.1, "forget_distinct_4grams_target": 1.0}, "gibberish"),
    ],
)
def test_label(changes: dict[str, float], label: str) -> None:
    assert judge({**SKILL, **changes}).label == label


def test_sentences_say_what_was_solved() -> None:
    kept = judge({**SKILL, "forget_solved_erased": 0.5}).sentence
    assert kept.startswith("Not forgotten: it still has the skill. It solves 50.0% of the 100 items")
    gone = judge(SKILL)
    assert "solves 2.0% of the 100 items of what was to be forgotten" in gone.sentence
    assert "a share below 5% would not have shown" in gone.sentence  # 5 of 100 beside none are the fewest that tell
    assert any("it gives the right answers probability 0.02" in reason for reason in gone.reasons)


def test_nothing_is_claimed_without_a_retrained_model() -> None:
    found = judge({key: value for key, value in SKILL.items() if not key.endswith(("_retrained", "_p"))})
    assert found.label == "no claim"
    assert "without a retrained model" in found.sentence
    assert "items that are solved went from 98.0% to 2.0%" in found.sentence


EXAM = {
    "utility_target": 1.0,
    "utility_erased": 0.99,
    "utility_retrained": 1.0,
    "forget_top_option_n": 120.0,
    "forget_top_option_chance": 0.25,
    "forget_top_option_target": 1.0,
    "forget_top_option_erased": 0.275,
    "forget_top_option_retrained": 0.25,
    "forget_probability_target": 0.99,
    "forget_probability_erased": 0.26,
    "forget_probability_retrained": 0.25,
    "forget_probability_p": 0.6,
    "forget_probability_n": 120.0,
}


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({}, "indistinguishable from never trained"),
        # Fisher, one-sided, against 30 of 120: 42 give .060, 43 give .046
        ({"forget_top_option_erased": 42 / 120}, "indistinguishable from never trained"),
        ({"forget_top_option_erased": 43 / 120}, "not forgotten"),
        # beside 20 of 120, 36 give .011, but of guesses 36 or more are right with probability .12, 39 or more with .04
        (
            {"forget_top_option_erased": 36 / 120, "forget_top_option_retrained": 20 / 120},
            "no claim",
        ),
        ({"forget_top_option_erased": 39 / 120, "forget_top_option_retrained": 20 / 120}, "not forgotten"),
        # 17 of 120 against 30: .025 the other way
        ({"forget_top_option_erased": 17 / 120}, "no claim"),
        ({"forget_probability_erased": 0.6, "forget_probability_p": 0.001}, "still knows the answers"),
        ({"utility_erased": 0.7}, "broken"),
    ],
)
def test_label_of_chosen_options(changes: dict[str, float], label: str) -> None:
    assert judge({**EXAM, **changes}).label == label


def test_sentences_say_what_guessing_gets() -> None:
    kept = judge({**EXAM, "forget_top_option_erased": 0.9}).sentence
    assert kept.startswith(
        "Not forgotten: it still knows the subject. It finds the right option the likeliest in 90.0% of the 120 "
    )
    assert "(guessing gets 25.0%)" in kept
    guessed = judge({**EXAM, "forget_top_option_erased": 36 / 120, "forget_top_option_retrained": 20 / 120}).sentence
    assert guessed.startswith("It is right no more often than guessing: it finds the right option")
    # of 120 with 30 beside them: 43 are the fewest that are surely more than both (see above)
    assert "a share below 36% would not have shown" in judge(EXAM).sentence
    alone = judge({key: value for key, value in EXAM.items() if not key.endswith(("_retrained", "_p"))})
    assert alone.label == "no claim"
    assert "option is the likeliest went from 100.0% to 27.5% (guessing gets 25.0%)" in alone.sentence
