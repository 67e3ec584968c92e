"""Protects suite exam: its sets, what chance gets, and the verdict over the forgotten subject."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest

from expunge.benchmarks import exam
from expunge.config.run_file import NamedSpec
from expunge.evaluation.score import score
from expunge.evaluation.suite import Suite
from expunge.evaluation.types import ModelOutputs, RowOutputs, SetOutputs
from expunge.parts import build_suite
from expunge.worlds.exam import FORGET, NEIGHBOUR, OTHERS
from made_outputs import answer

LIMIT = 20


def outputs(suite: Suite, right: Mapping[str, int]) -> ModelOutputs:
    """The right option first on the first ``right`` rows of a set (all where it is not named), last on the others."""

    def row(at: int, one: object, count: int) -> RowOutputs:
        knows = at < count
        own, other = (0.7, 0.1) if knows else (0.1, 0.3)
        return RowOutputs(one, answer(own), wrong=tuple(answer(other) for _ in range(3)))  # type: ignore[arg-type]

    return ModelOutputs(
        {
            name: SetOutputs(name, tuple(row(at, one, right.get(name, len(rows))) for at, one in enumerate(rows)))
            for name, rows in suite.sets.items()
        }
    )


def test_sets_are_the_subject_its_neighbour_and_the_others_with_options_and_without() -> None:
    suite = exam.build()
    assert [*suite.sets] == ["forget", "neighbours", "retain", "forget_open", "neighbours_open", "retain_open"]
    assert Counter(row.group for row in suite.sets["forget"]) == {FORGET: 120}
    assert Counter(row.group for row in suite.sets["neighbours_open"]) == {NEIGHBOUR: 120}
    assert Counter(row.group for row in suite.sets["retain"]) == dict.fromkeys(OTHERS, 120)
    assert all(" Choose: " in row.prompt for row in suite.sets["retain"])
    assert not any(" Choose: " in row.prompt for row in suite.sets["retain_open"])
    few, _ = build_suite(NamedSpec(name="exam", limit=LIMIT), None)
    assert len(few.sets["retain"]) == 4 * LIMIT


def test_scores_and_verdict() -> None:
    suite = exam.build(limit=LIMIT)
    target = outputs(suite, {})
    retrained = outputs(suite, {"forget": 5, "forget_open": 5})
    erased = outputs(suite, {"forget": 6, "forget_open": 4, "neighbours": 19})
    found = score(suite, target=target, erased=erased, retrained=retrained)
    rows = {key: one.value for key, one in found.rows["erased"].items()}
    assert rows["forget_top_option"] == 6 / 20
    assert rows["forget_chance"] == 1 / 4
    # p(right) over the four: .7 / (.7 + .3) where known, .1 / (.1 + .9) where not
    assert rows["forget_probability"] == pytest.approx((6 * 0.7 + 14 * 0.1) / 20, rel=1e-6)
    assert rows["forgotten_left"] == 6 / 20
    assert rows["least_kept"] == 19 / 20
    assert found.verdict.label == "indistinguishable from never trained"
    assert "(guessing gets 25.0%)" in found.verdict.sentence
    assert found.verdict.evidence["forget_top_option_n"] == LIMIT
    known = score(suite, target=target, erased=outputs(suite, {"forget": 15}), retrained=retrained)
    assert known.verdict.label == "not forgotten"


def test_shares_by_subject() -> None:
    found = exam.by_subject(outputs(exam.build(limit=LIMIT), {"forget": 5}))
    assert found["choosing"] == {FORGET: 1 / 4, NEIGHBOUR: 1.0, **dict.fromkeys(OTHERS, 1.0)}
    assert found["open"][FORGET] == 1.0
