"""Protects what becomes of the harness's results: keys, numbers, versions, words and messages, with none installed."""

from __future__ import annotations

from typing import Any

import pytest

from expunge.errors import ConfigError
from expunge.evaluation.harness import SUITE, Abilities, Harness, HarnessSettings, read_results, with_abilities
from expunge.evaluation.score import Scores
from expunge.evaluation.types import Score
from expunge.evaluation.verdict import judge
from expunge.reports.names import leading

# As simple_evaluate returns it: a group with a score of its own, one without, and a task by itself.
RESULTS: dict[str, Any] = {
    "results": {
        "mmlu": {"name": "mmlu", "alias": "mmlu", "sample_len": 5, "acc,none": 0.6, "acc_stderr,none": 0.21},
        "mmlu_law": {"alias": " - law", "sample_len": 2, "acc,none": 0.5, "acc_stderr,none": 0.5},
        "mmlu_art": {"alias": " - art", "sample_len": 3, "acc,none": 2 / 3, "acc_stderr,none": 1 / 3},
        "plain": {"name": "plain", "alias": "plain"},
        "gsm8k": {
            "sample_len": 1,
            "exact_match,strict-match": 0.0,
            "exact_match_stderr,strict-match": "N/A",
            "exact_match,flexible-extract": 1.0,
            "exact_match_stderr,flexible-extract": "N/A",
        },
        "odd": {"sample_len": 4, "bleu,none": float("nan"), "bleu_stderr,none": "N/A"},
    },
    "group_subtasks": {"mmlu": ["mmlu_law", "mmlu_art"], "plain": ["gsm8k"]},
    "versions": {"mmlu": 2, "mmlu_law": 1.0, "mmlu_art": "Yaml", "gsm8k": 3.0},
    "n-shot": {"mmlu": 5, "mmlu_law": 5, "mmlu_art": 5, "gsm8k": 8},
}
SETTINGS = HarnessSettings.of({"tasks": "mmlu,plain,odd", "limit": 5})


def abilities(value: float, **left_out: str) -> Abilities:
    scores = {"mmlu_acc": Score(value, 0.1, 5, "2, lm-eval 1"), "mmlu_law_acc": Score(value, 0.1, 2, "1, lm-eval 1")}
    return Abilities(scores, ("mmlu_acc",), left_out, {"mmlu": 5}, version="1", seconds=2.0)


def suite_scores(name: str, **rows: dict[str, Score]) -> Scores:
    return Scores(name, rows, judge({}, effect="removal" if "erased" in rows else "none"))


def test_results_become_scores() -> None:
    found = read_results(RESULTS, version="0.4.13")
    assert found.scores == {
        "mmlu_acc": Score(0.6, 0.21, 5, "2, lm-eval 0.4.13"),
        "mmlu_law_acc": Score(0.5, 0.5, 2, "1.0, lm-eval 0.4.13"),
        "mmlu_art_acc": Score(2 / 3, 1 / 3, 3, "lm-eval 0.4.13"),
        "gsm8k_exact_match_strict-match": Score(0.0, None, 1, "3.0, lm-eval 0.4.13"),
        "gsm8k_exact_match_flexible-extract": Score(1.0, None, 1, "3.0, lm-eval 0.4.13"),
    }
    # parts of a group that has a score are no main scores; those of a group without one are
    assert found.main == ("mmlu_acc", "gsm8k_exact_match_strict-match", "gsm8k_exact_match_flexible-extract")
    assert found.left_out == {"odd_bleu": "lm-eval gives nan, which is no number."}
    assert found.shots == {"mmlu": 5, "gsm8k": 8}


def test_alone_nothing_is_claimed_and_everything_is_said() -> None:
    scores = suite_scores(SUITE, target={}, erased={}, retrained={})
    # the models were run in another order than they are told of
    found = with_abilities(
        scores, {"erased": abilities(0.3, odd="x"), "retrained": abilities(0.55), "target": abilities(0.6)}, SETTINGS
    )
    value = found.to_json()
    assert {model: row["mmlu_acc"]["value"] for model, row in value["rows"].items()} == {
        "target": 0.6,
        "erased": 0.3,
        "retrained": 0.55,
    }
    assert value["verdict"]["label"] == "no claim"
    assert "Nothing is claimed about forgetting" in value["verdict"]["sentence"]
    assert "By lm-eval 1: mmlu_acc 0.3 (target 0.6, retrained 0.55)." in value["verdict"]["sentence"]
    assert value["verdict"]["effect"] == "removal"
    assert value["verdict"]["left_out"] == {"odd": "erased: x"}
    assert (value["harness"]["version"], value["harness"]["limit"]) == ("1", 5)
    assert (value["harness"]["main"], value["harness"]["parts"]) == (["mmlu_acc"], ["mmlu_law_acc"])
    assert value["seconds"]["harness_erased"] == 2.0


def test_beside_a_suite_the_verdict_stays() -> None:
    own = Score(0.5, 0.1, 9, 1)
    scores = suite_scores("request", target={"forget_probability": own}, erased={"forget_probability": own})
    found = with_abilities(scores, {"target": abilities(0.6), "erased": abilities(0.3)}, SETTINGS)
    assert (found.verdict.label, found.verdict.sentence) == (scores.verdict.label, scores.verdict.sentence)
    assert found.verdict.reasons == (*scores.verdict.reasons, "By lm-eval 1: mmlu_acc 0.3 (target 0.6).")
    assert list(found.rows["erased"]) == ["forget_probability", "mmlu_acc", "mmlu_law_acc"]


def test_tables_begin_with_what_was_asked_for() -> None:
    harness = {"harness": {"main": ["mmlu_acc"], "parts": ["mmlu_law_acc"]}}
    keys = ["retain_rouge", "problems_exact_number", "forget_probability", "mmlu_acc", "mmlu_law_acc"]
    assert leading(keys, harness) == ["forget_probability", "retain_rouge", "mmlu_acc"]
    # a suite without headline metrics is shown whole, and so are tasks without groups
    assert leading(keys[1:2] + keys[3:], harness) == ["problems_exact_number", "mmlu_acc"]
    assert leading(["problems_exact_number"], {}) == ["problems_exact_number"]


def test_settings_and_their_problems() -> None:
    assert HarnessSettings.of({"tasks": "mmlu, gsm8k,mmlu"}).tasks == ("mmlu", "gsm8k")
    assert HarnessSettings.of({"tasks": ["a,b", "c"]}).tasks == ("a", "b", "c")
    with pytest.raises(ConfigError, match=r"harness\.limt: no such setting\. Did you mean 'limit'\?"):
        HarnessSettings.of({"tasks": "a", "limt": 3})
    for values in ({"limit": 0}, {"fewshot": -1}, {"batch_size": 0}, {"limit": 0.5}):
        (name,) = values
        with pytest.raises(ConfigError, match=rf"harness\.{name}="):
            HarnessSettings.of({"tasks": "a", **values})
    with pytest.raises(ConfigError, match=r"harness\.tasks"):
        HarnessSettings.of({"tasks": " , "})


def test_a_missing_or_old_harness_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    versions: dict[str, str | None] = {"lm-eval": None}
    monkeypatch.setattr("expunge.extras.installed", versions.get)
    with pytest.raises(ConfigError, match=r"tasks mmlu,plain,odd needs the package lm-eval.*'expunge\[eval\]'"):
        Harness(SETTINGS)
    versions["lm-eval"] = "0.4.2"
    with pytest.raises(ConfigError, match=r"needs lm-eval 0\.4\.13 or later, and 0\.4\.2 is installed"):
        Harness(SETTINGS)
