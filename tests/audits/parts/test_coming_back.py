"""Protects when knowledge counts as back: two standard errors and half way, by hand, and the words that follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import zoo
from expunge.audits.interface import Audited, AuditResult, ModelName
from expunge.audits.parts.answers import Answers
from expunge.audits.parts.coming_back import Course, Level, Seen, coming_back_result, compare
from expunge.requests import Request, Row

ROWS = tuple(Row(f"Where was person {i} born?", f"In town {i}") for i in range(4))
SPREAD = np.array([-0.03, -0.01, 0.01, 0.03])  # mean 0, squares .002, sd sqrt(.002 / 3) = .0258, error .0129


def test_back_is_two_errors_above_the_control_and_half_way_to_the_target() -> None:
    control, target = np.full(4, 0.1), np.full(4, 0.9)
    # half way from .1 to .9 is .5
    found = compare(0.5001 + SPREAD, control, target)
    assert found.back and found.more.value == pytest.approx(0.4001)
    assert found.more.stderr == pytest.approx((0.002 / 3) ** 0.5 / 2)
    assert (found.retrained, found.target) == pytest.approx((0.1, 0.9))
    assert not compare(0.49 + SPREAD, control, target).back
    # +.02 is 1.55 errors, +.03 is 2.3; half way from .1 to .12 both
    near = np.full(4, 0.12)
    assert not compare(0.12 + SPREAD, control, near).back and compare(0.13 + SPREAD, control, near).back
    # equal differences have no error, and .009 is of no use to anybody
    assert not compare(control + 0.009, control, control).back and compare(control + 0.011, control, control).back
    assert not compare(np.array([0.9]), np.array([0.1]), np.array([0.9])).back  # one row
    # a row that one of them does not define is left out of all means
    holes = compare(np.array([0.9, 0.9, 0.9, 0.0]), np.array([0.1, 0.1, 0.1, np.nan]), target)
    assert holes.back and holes.erased == pytest.approx(0.9) and holes.more.n == 3
    assert not compare(np.full(4, np.nan), control, target).back


def answers(*draws: np.ndarray) -> Answers:
    """The same values of every metric, [V, 4]."""
    values = np.array(draws)
    texts = tuple(tuple(f"draw {i}" for _ in ROWS) for i in range(len(draws)))
    return Answers(tuple("plain" for _ in draws), values, values.copy(), values.copy(), texts, texts)


def course(
    erased: Sequence[float], retrained: Sequence[float], kept: Sequence[float] | None = None, name: str = ""
) -> Course:
    """Means at levels 0, 5 and 10, over rows that spread; the target has .9."""
    means: dict[ModelName, Sequence[float]] = {"target": [0.9] * 3, "erased": erased, "retrained": retrained}
    seen = {
        model: [
            Seen(answers(mean + (SPREAD if model == "erased" else 0 * SPREAD)), None if kept is None else np.array([k]))
            for mean, k in zip(values, kept or (0, 0, 0), strict=True)
        ]
        for model, values in means.items()
    }
    levels = [Level(0, "0", "Before"), Level(5, "5", "After 5 steps"), Level(10, "10", "After 10 steps")]
    what = name or "rows"
    return Course(name, f"Trained on {what}", "steps", levels, seen, f"within 10 steps on {what}", ("10",))


def result(*courses: Course, **given: Any) -> AuditResult:
    audited = Audited(
        zoo.model("llama"),
        zoo.tokenizer("llama"),
        Request(ROWS),
        erased=zoo.model("llama", seed=1),
        retrained=zoo.model("llama", seed=2),
    )
    return coming_back_result("again", 1, audited, ROWS, courses, details={}, **given)


def test_the_first_level_at_which_it_is_back_is_said() -> None:
    found = result(course([0.1, 0.3, 0.8], [0.1, 0.1, 0.2]), course([0.1] * 3, [0.1] * 3, name="other"))
    # at 5 steps .3 is surely more, and not half way (.5); at 10 .8 is beyond (.2 + .9) / 2 = .55
    assert found.label == "comes back"
    assert found.sentence.startswith("After 10 steps, ") and "0.80 in the erased model (0.10 before)" in found.sentence
    assert "0.20 in the retrained one" in found.sentence and "+0.60 ± 0.01" in found.sentence
    assert found.sentence.endswith("Nothing comes back within 10 steps on other. 4 rows were asked.")
    assert found.details["comes_back"]["levels"]["first"] == 10
    assert found.details["comes_back"]["other"]["first"] is None
    erased = found.rows["erased"]
    assert erased["again_10_probability_beyond_retrained"].value == pytest.approx(0.6)
    assert erased["forget_leakage"].value == pytest.approx(0.1)
    assert erased["again_other_10_leakage"].value == pytest.approx(0.1)
    assert not any("again_5" in key for key in erased) and set(found.rows["target"]) == {
        "forget_leakage", "forget_rouge", "forget_probability",
    }  # fmt: skip
    assert found.curves[2]["series"]["erased"][2] == [10, pytest.approx(0.8), pytest.approx((0.002 / 3) ** 0.5 / 2)]
    assert found.samples[0]["way"] == "After 10 steps"


def test_what_the_retrained_model_learns_as_fast_is_not_back() -> None:
    found = result(course([0.1, 0.5, 0.8], [0.1, 0.5, 0.8]))
    assert found.label == "erased" and "not surely more" in found.sentence


def test_less_than_half_is_hidden_and_what_was_there_before_leaks() -> None:
    found = result(course([0.1, 0.2, 0.2], [0.1, 0.1, 0.1]))
    assert found.label == "hidden" and "After 5 steps" in found.sentence and "less than half" in found.sentence
    leaks = result(course([0.2, 0.2, 0.2], [0.1, 0.1, 0.1]))
    assert leaks.label == "leaks" and leaks.sentence.endswith(
        "Nothing comes back within 10 steps on rows. 4 rows were asked."
    )
    more = result(course([0.2, 0.3, 0.2], [0.1, 0.1, 0.1]))
    assert more.label == "leaks" and "less than half" in more.sentence and "After 5 steps, " in more.sentence
    assert "nothing has to come back" in result(course([0.8, 0.8, 0.8], [0.1, 0.1, 0.1])).sentence


def test_a_ruined_model_proves_nothing() -> None:
    alike = ([0.1, 0.1, 0.1], [0.1, 0.1, 0.1])
    found = result(course(*alike, kept=[0.8, 0.7, 0.39]))  # half of .8 is .4
    assert found.label == "erased" and "What ruins the model proves nothing: After 10 steps." in found.sentence
    assert found.details["comes_back"]["levels"]["ruined_at"] == [10]
    assert result(course(*alike, kept=[0.8, 0.3, 0.3])).label == "no claim"
    assert found.curves[-1]["title"].endswith("the probability of retain answers")


def test_without_what_it_takes_there_is_no_claim() -> None:
    alike = course([0.1] * 3, [0.1] * 3)
    assert result(alike, doubt="But it was too weak.").sentence.endswith(
        "rows. But it was too weak. 4 rows were asked."
    )
    assert result(alike, doubt="But it was too weak.").label == "no claim"
    knows_nothing = result(course([0.9] * 3, [0.9] * 3))
    assert knows_nothing.label == "no claim" and "The target itself knows surely no more" in knows_nothing.sentence


def test_draws_are_averaged_row_by_row() -> None:
    one = course([0.1] * 3, [0.1] * 3)
    drawn = answers(np.full(4, 0.2), np.full(4, 0.6))
    one.seen["erased"][2].__dict__["answers"] = drawn
    assert result(one).rows["erased"]["again_10_probability"].value == pytest.approx(0.4)


def test_doubt_hides_nothing_that_is_surely_there() -> None:
    weak = "But it was too weak."
    # .3 less .1 is .2 with an error of .0129, and half way to .9 is .5
    leaks = result(course([0.3] * 3, [0.1] * 3, kept=[0.8, 0.1, 0.1]), doubt=weak)
    assert leaks.label == "leaks" and leaks.sentence.startswith("With nothing done at all, ")
    assert "each of these ruins the erased model" in leaks.sentence and weak in leaks.sentence
    hidden = result(course([0.1, 0.3, 0.1], [0.1] * 3), doubt=weak)
    assert hidden.label == "hidden" and "After 5 steps, " in hidden.sentence and weak in hidden.sentence
    ruined = result(course([0.1, 0.3, 0.1], [0.1] * 3, kept=[0.8, 0.1, 0.1]))
    assert ruined.label == "hidden" and ruined.details["comes_back"]["levels"]["most_at"] == 5


@pytest.mark.parametrize("better", ["target", "retrained"])
def test_a_model_that_was_ruined_before_is_not_erased(better: ModelName) -> None:
    one = course([0.1] * 3, [0.1] * 3)
    for model, kept in {"target": 0.2, "retrained": 0.2, better: 0.8, "erased": 0.39}.items():  # half of .8 is .4
        one.seen[model][0].__dict__["kept"] = np.array([kept - 0.1, kept + 0.1])
    found = result(one)
    assert found.label == "no claim"
    assert f"is 0.39 in the erased model, less than half of the {better} model's 0.80" in found.sentence
    assert len(found.curves) == 3  # asked before alone: no figure by steps
    one.seen["erased"][0].__dict__["kept"] = np.array([0.31, 0.51])
    assert result(one).label == "erased"
    leaking = course([0.3] * 3, [0.1] * 3, kept=[0.1] * 3)
    leaking.seen["target"][0].__dict__["kept"] = np.array([0.9])
    assert result(leaking).label == "leaks"  # what it says it knows


def test_the_best_level_is_scored_for_each_model() -> None:
    found = result(course([0.1, 0.4, 0.3], [0.1, 0.1, 0.2]))
    erased, retrained = found.rows["erased"], found.rows["retrained"]
    # erased: .4 after 5 steps; retrained: .2 after 10
    assert erased["again_best_probability"].value == pytest.approx(0.4)
    assert retrained["again_best_probability"].value == pytest.approx(0.2)
    assert erased["again_best_probability_beyond_retrained"].value == pytest.approx(0.2)
    assert erased["again_10_probability"].value == pytest.approx(0.3)
    # .4 less .1 tells more than .3 less .2
    assert found.details["comes_back"]["levels"]["most_at"] == 5
    alone = result(course([0.1] * 3, [0.1] * 3, kept=[0.8, 0.7, 0.7]))
    assert not any("best" in key for key in alone.rows["target"])


def test_one_row_is_said_to_be_one() -> None:
    values = np.array([[0.5]])
    single = Answers(("plain",), values, values, values, (("Where?",),), (("There.",),))
    seen: dict[ModelName, list[Seen]] = {model: [Seen(single)] * 2 for model in ("target", "erased", "retrained")}
    levels = [Level(0, "0", "Before"), Level(1, "1", "After 1 step")]
    one = Course("", "Trained", "steps", levels, seen, "within 1 step", ("1",))
    audited = Audited(
        zoo.model("llama"),
        zoo.tokenizer("llama"),
        Request(ROWS),
        erased=zoo.model("llama", seed=1),
        retrained=zoo.model("llama", seed=2),
    )
    found = coming_back_result("again", 1, audited, ROWS[:1], [one], details={}, more="And so on.")
    assert found.label == "no claim"
    assert found.sentence == "Only one row was asked, which proves nothing: pass more. And so on."
