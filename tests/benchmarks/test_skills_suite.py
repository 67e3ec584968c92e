"""Protects suite skills: a set a skill, the forgotten one and the others summed up beside the target, its verdict."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import pytest

from expunge.benchmarks import skills
from expunge.config.run_file import NamedSpec
from expunge.errors import ConfigError
from expunge.evaluation.score import score
from expunge.evaluation.suite import Suite
from expunge.evaluation.types import AnswerScores, ModelOutputs, RowOutputs, SetOutputs
from expunge.parts import build_suite
from made_outputs import answer

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="code is run on Linux alone")
LIMIT = 8


def outputs(suite: Suite, wrong: Mapping[str, int]) -> ModelOutputs:
    """Expected answers, but for the first ``wrong`` rows of a set, which are declined and unlikely."""

    def row(at: int, one: object, count: int) -> RowOutputs:
        bad = at < count
        scored: AnswerScores = answer(*([0.01] * 3 if bad else [0.9] * 3))
        greedy = "No." if bad else one.answer  # type: ignore[attr-defined]
        return RowOutputs(one, scored, greedy=greedy, greedy_tokens=(1, 2), greedy_end=0, greedy_under_target=scored)  # type: ignore[arg-type]

    return ModelOutputs(
        {
            name: SetOutputs(name, tuple(row(at, one, wrong.get(name, 0)) for at, one in enumerate(rows)))
            for name, rows in suite.sets.items()
        }
    )


def test_a_set_of_held_out_items_for_each_skill() -> None:
    suite = skills.build(forget="german")
    assert {name: len(rows) for name, rows in suite.sets.items()} == dict.fromkeys(
        ["arithmetic", "code", "english", "german", "spanish"], 100
    )
    assert all(row.group == name for name, rows in suite.sets.items() for row in rows)
    assert suite.keys()[-2:] == ["forgotten_left", "least_kept"]
    plain = skills.build(forget="german", style="plain", limit=LIMIT)
    assert plain.sets["german"][0].prompt == suite.sets["german"][0].prompt
    assert f"Antwort: {plain.sets['german'][0].answer}" == suite.sets["german"][0].answer


@on_linux
def test_scores_and_verdict() -> None:
    suite = skills.build(forget="german", limit=LIMIT)
    target = outputs(suite, {})
    retrained = outputs(suite, {"german": LIMIT})
    erased = outputs(suite, {"german": LIMIT, "code": 1, "spanish": 2})
    found = score(suite, target=target, erased=erased, retrained=retrained)
    rows = {model: {key: one.value for key, one in scores.items()} for model, scores in found.rows.items()}
    assert {key: value for key, value in rows["target"].items() if key.endswith("_solved")} == dict.fromkeys(
        ["arithmetic_solved", "code_solved", "english_solved", "german_solved", "spanish_solved"], 1.0
    )
    assert (rows["target"]["forgotten_left"], rows["target"]["least_kept"]) == (1.0, 1.0)
    assert (rows["erased"]["german_solved"], rows["erased"]["forgotten_left"]) == (0.0, 0.0)
    assert (rows["erased"]["code_solved"], rows["erased"]["least_kept"]) == (7 / 8, 6 / 8)  # spanish lost 2 of 8
    assert found.verdict.label == "broken"  # .75 of the retrained model's 1
    better = outputs(suite, {"german": LIMIT, "code": 1})
    verdict = score(suite, target=target, erased=better, retrained=retrained).verdict
    assert verdict.label == "indistinguishable from never trained"
    assert "0.0% of the 8 items" in verdict.sentence
    assert score(suite, target=target, erased=target, retrained=retrained).verdict.label == "not forgotten"
    alone = score(suite, target=target, erased=better).verdict
    assert alone.label == "no claim"
    assert "went from 100.0% to 0.0%" in alone.sentence


@on_linux
def test_without_a_target_shares_are_left_out() -> None:
    suite = skills.build(limit=LIMIT)
    found = score(suite, erased=outputs(suite, {}))
    assert "german_solved" in found.rows["erased"]
    assert "the target was not scored" in found.left_out["forgotten_left"]


def test_unknown_skill_and_style() -> None:
    with pytest.raises(ConfigError, match=r"suite.forget: suite skills has no forget 'germn'. Did you mean 'german'"):
        skills.build(forget="germn")
    with pytest.raises(ConfigError, match=r"suite.style: suite skills has no style 'bare'"):
        build_suite(NamedSpec(name="skills", style="bare"), None)
