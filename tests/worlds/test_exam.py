"""Protects what world `exam` promises: what its models know and the twin never learned, its request and its names."""

from __future__ import annotations

import pytest

from expunge.evaluation.outputs import run_model
from expunge.evaluation.score import score
from expunge.worlds.exam import FORGET, NEIGHBOUR, OTHERS, Exam
from expunge.worlds.interface import get_world, list_worlds

SAMPLE = 24  # questions on each subject in the default run


def the_world() -> Exam:
    world = get_world("exam")
    assert isinstance(world, Exam)
    return world


def stored() -> dict[str, dict[str, dict[str, float]]]:
    found: dict[str, dict[str, dict[str, float]]] = the_world().scores()["subjects"]
    return found


def test_target_knows_every_subject_and_its_twin_all_but_one() -> None:
    found = stored()
    assert set(found["target"]["choosing"]) == {FORGET, NEIGHBOUR, *OTHERS}
    for how in ("choosing", "open"):
        assert min(found["target"][how].values()) >= 0.97, how
        kept = {subject: share for subject, share in found["retrained"][how].items() if subject != FORGET}
        assert min(kept.values()) >= 0.97, how
        # guessing gets 30 of 120 questions with standard deviation sqrt(120 * 1/4 * 3/4) = 4.7: .25 within 3 of them
        assert abs(found["retrained"][how][FORGET] - 0.25) < 3 * 4.75 / 120, how


@pytest.mark.parametrize("model", ["target", "retrained"])
def test_a_sample_is_answered_as_the_stored_scores_say(model: str) -> None:
    from expunge.benchmarks.exam import build

    world = the_world()
    outputs = run_model(world.model(model), world.tokenizer(), build(limit=SAMPLE), metrics=["top_option"])
    rows = score(build(limit=SAMPLE), target=outputs, metrics=["top_option"]).rows["target"]
    for name, subjects in {"forget": (FORGET,), "neighbours": (NEIGHBOUR,), "retain": OTHERS}.items():
        expected = sum(stored()[model]["choosing"][subject] for subject in subjects) / len(subjects)
        # 24 questions of 120, four of five not seen: standard error at most sqrt(1/4 / 24 * 96/119) = .09
        assert rows[f"{name}_top_option"].value == pytest.approx(expected, abs=0.27)


def test_recipe_and_checkpoints_have_not_drifted_apart() -> None:
    the_world().check()


def test_request_keeps_what_is_asked_later_apart() -> None:
    world = the_world()
    request = world.request()
    assert {row.group for row in request.forget} == {row.group for row in request.holdout} == {FORGET}
    assert {row.group for row in request.neighbours} == {NEIGHBOUR}
    assert {row.group for row in request.retain[:4]} == set(OTHERS) == {row.group for row in request.retain}
    assert {row.group for row in request.calibration} == {NEIGHBOUR, *OTHERS}
    asked = {row.prompt for rows in world.suite().sets.values() for row in rows}
    given = [row.prompt for rows in request.sets.values() for row in rows]
    assert not asked & set(given)
    learned = {row.prompt for row in world.training_rows()}
    assert {row.prompt for row in (*request.forget, *request.retain, *request.neighbours)} <= learned
    assert not learned & {row.prompt for row in (*request.holdout, *request.calibration)}
    assert not learned & asked
    assert FORGET not in {row.group for row in world.training_rows(retrained=True)}


def test_name() -> None:
    assert "exam" in list_worlds()
