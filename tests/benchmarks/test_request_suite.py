"""Protects the suite over a user's own rows: scores follow what the rows carry, and what cannot be scored is said."""

from __future__ import annotations

import pytest

from expunge.benchmarks import request as suite_of_request
from expunge.errors import ConfigError, ControlError
from expunge.evaluation.suite import select
from expunge.requests.request import Request
from expunge.requests.rows import Row

PLAIN = tuple(Row(f"question {i}?", f"answer {i}") for i in range(6))
RICH = Row("what?", "this", paraphrased_prompt="which?", paraphrased_answer="it is this", wrong_answers=("that",))


def test_plain_rows() -> None:
    suite = suite_of_request.build(Request(forget=PLAIN[:2], retain=PLAIN[2:4], neighbours=PLAIN[4:]))
    assert list(suite.sets) == ["forget", "retain", "neighbours"]
    keys = suite.keys()
    for name in suite.sets:
        assert {
            f"{name}_{label}" for label in ("probability", "rouge", "extraction_strength", "distinct_4grams")
        } <= set(keys)
    assert not any("truth" in key or "quality" in key for key in keys)
    assert suite.utility == "retain_probability"
    assert "no wrong answers" in select(suite).left_out["forget_quality"]
    with pytest.raises(ControlError, match="forget_quality was asked for, but the forget rows carry no wrong answers"):
        select(suite, ["forget_quality"])


def test_rows_with_wrong_answers_and_paraphrases() -> None:
    suite = suite_of_request.build(Request(forget=(RICH, PLAIN[0]), retain=(RICH.with_prompt("other?"),)))
    keys = suite.keys()
    assert {"forget_truth_ratio", "retain_truth_ratio", "forget_quality", "forget_quality_ks"} <= set(keys)
    assert suite.set_metrics()["forget_truth_ratio"][1].name == "truth_ratio"
    assert suite.set_metrics()["retain_truth_ratio"][1].name == "kept_truth_ratio"
    assert suite.set_metrics()["retain_probability"][1].name == "probability"
    assert [row.prompt for row in suite.sets["forget_paraphrased"]] == ["which?"]


def test_documents_are_not_asked() -> None:
    documents = (Row("", "Some passage of text.", kind="document"),)
    suite = suite_of_request.build(Request(forget=documents, retain=PLAIN))
    keys = suite.keys()
    assert "forget_rouge" not in keys
    assert "forget_probability" in keys
    assert "plain documents" in suite.unavailable["forget_rouge"]


def test_calibration_rows_are_not_scored_and_retain_may_be_missing() -> None:
    suite = suite_of_request.build(Request(forget=PLAIN[:1], calibration=PLAIN[1:]))
    assert list(suite.sets) == ["forget"]
    assert suite.utility is None


def test_limit_spreads_over_the_rows() -> None:
    suite = suite_of_request.build(Request(forget=PLAIN, retain=PLAIN[:1]), limit=3)
    assert suite.sets["forget"] == (PLAIN[0], PLAIN[2], PLAIN[4])
    assert suite.sets["retain"] == PLAIN[:1]
    with pytest.raises(ConfigError, match=r"suite\.limit=0: at least one row.*Set suite\.limit=null to score all"):
        suite_of_request.build(Request(forget=PLAIN), limit=0)


def test_a_judge_adds_its_scores_to_the_sets_that_ask() -> None:
    request = Request(forget=PLAIN[:2], retain=PLAIN[2:4], holdout=PLAIN[4:])
    plain = suite_of_request.build(request)
    judged = suite_of_request.build(request, answer_judge=["rules", "entailment"])
    labels = ("leakage_judge", "answer_quality", "rejection", "hallucination_avoidance", "leakage_entailment")
    assert set(judged.keys()) - set(plain.keys()) == {
        f"{name}_{label}" for name in ("forget", "retain") for label in labels
    }
    assert [judge.label for judge in judged.answer_judges] == ["rules", "entailment"]
    documents = Request(forget=(Row("", "Some text.", kind="document"),), retain=PLAIN[:1])
    found = suite_of_request.build(documents, answer_judge="rules")
    assert "plain documents" in found.unavailable["forget_leakage_judge"]
    assert "retain_leakage_judge" in found.keys()  # noqa: SIM118 - a method of the suite
    with pytest.raises(ConfigError, match=r"suite\.entailment_model=m does not apply"):
        suite_of_request.build(request, entailment_model="m")
