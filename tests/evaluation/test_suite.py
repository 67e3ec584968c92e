"""Protects what a suite runs: names resolve to scores, controls are asked for, only what is needed is computed."""

from __future__ import annotations

import json

import pytest

from expunge.errors import ConfigError, ControlError, UnknownNameError
from expunge.evaluation.suite import Suite, select, spread
from expunge.requests.rows import Row

ROWS = (Row("q", "a", wrong_answers=("b",)),)
SUITE = Suite(
    "small",
    {"forget": ROWS, "retain": ROWS},
    {
        "forget": ("probability", "rouge", "truth_ratio", "answer_perplexity"),
        "retain": ("probability", "kept_truth_ratio"),
    },
    ("forget_quality",),
    unavailable={"holdout_rouge": "there are no holdout rows"},
)


def test_keys_are_set_and_metric() -> None:
    assert SUITE.keys() == [
        "forget_probability",
        "forget_rouge",
        "forget_truth_ratio",
        "forget_answer_perplexity",
        "retain_probability",
        "retain_truth_ratio",  # not kept_truth_ratio: a metric may stand under another key
        "forget_quality",
    ]


def test_default_selection_is_everything_and_tells_what_is_missing() -> None:
    everything = select(SUITE)
    assert everything.reported == tuple(SUITE.keys())
    assert everything.left_out == {"holdout_rouge": "there are no holdout rows"}
    without = select(SUITE, controls={"target"})
    assert "forget_quality" not in without.reported
    assert without.left_out["forget_quality"].startswith("forget_quality needs a retrained model: pass --retrained")


def test_by_name_a_missing_control_is_an_error() -> None:
    with pytest.raises(ControlError, match="forget_quality needs a retrained model: pass --retrained DIR"):
        select(SUITE, ["forget_quality"], controls={"target"})
    with pytest.raises(ControlError, match="forget_answer_perplexity needs the target"):
        select(SUITE, ["answer_perplexity"], controls=())
    with pytest.raises(ControlError, match="holdout_rouge was asked for, but there are no holdout rows"):
        select(SUITE, ["holdout_rouge"])


def test_names_expand_to_every_set() -> None:
    assert select(SUITE, ["probability"]).reported == ("forget_probability", "retain_probability")
    assert select(SUITE, ["truth_ratio"]).reported == ("forget_truth_ratio", "retain_truth_ratio")
    assert select(SUITE, ["kept_truth_ratio"]).reported == ("retain_truth_ratio",)


def test_unknown_score_gets_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match=r"has no score 'forget_qualty'\. Did you mean 'forget_quality'"):
        select(SUITE, ["forget_qualty"])


def test_only_what_is_needed_is_run() -> None:
    assert select(SUITE, ["rouge"]).needs(SUITE) == {"forget": frozenset({"greedy"})}
    quality = select(SUITE, ["forget_quality"])
    assert quality.reported == ("forget_quality",)
    assert quality.computed == ("forget_truth_ratio",)  # worked out, not reported
    assert quality.needs(SUITE) == {"forget": frozenset({"answer", "paraphrase", "wrong"})}


def test_a_suite_that_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigError, match="set 'retain' has no rows; metrics for a set 'other'"):
        Suite("bad", {"retain": ()}, {"other": ("rouge",)})
    with pytest.raises(ConfigError, match="needs retain_probability"):
        select(Suite("bad", {"forget": ROWS}, {"forget": ("rouge",)}, ("model_utility",)))


def test_description_is_json() -> None:
    described = json.loads(json.dumps(SUITE.describe()))
    assert described["sets"] == {"forget": 1, "retain": 1}
    assert described["metrics"]["forget_quality"]["controls"] == ["retrained"]


def test_a_limit_below_one_is_told_by_its_own_name() -> None:
    assert spread("abcdef", 3, option="limit") == ("a", "c", "e")  # of six rows 0, 6 // 3 and 12 // 3
    with pytest.raises(ConfigError) as caught:
        spread("ab", 0, option="limit", section="audits.membership")
    assert str(caught.value) == "audits.membership.limit=0: at least one row of a set must be scored."
