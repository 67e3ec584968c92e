"""Protects choosing judges of answers by what the user wrote, several at once, and what is said of options amiss."""

from __future__ import annotations

from typing import Any

import pytest

from expunge.errors import ConfigError, UnknownNameError
from expunge.evaluation.answer_judge import (
    JUDGED,
    Asked,
    answer_judge_names,
    judged_by,
    judged_metrics,
    make_answer_judges,
    verdicts_on,
)
from expunge.evaluation.answer_judges.endpoint import Endpoint
from expunge.evaluation.answer_judges.entailment import Entailment
from expunge.evaluation.answer_judges.rules import Rules
from expunge.evaluation.judge import check_judge
from expunge.evaluation.suite import Suite
from expunge.evaluation.types import AnswerVerdict
from expunge.requests.rows import Row

URL = "http://localhost:1/v1"


def test_judges_are_found_by_their_files() -> None:
    assert answer_judge_names() == ["endpoint", "entailment", "rules"]


def test_one_several_or_none() -> None:
    assert make_answer_judges(None) == ()
    (one,) = make_answer_judges("rules")
    assert isinstance(one, Rules)
    rules, entailment, first, second = make_answer_judges(
        ["rules", "entailment", f"{URL}#large", URL], answer_judge_model="small", answer_judge_rate=60
    )
    assert isinstance(rules, Rules)
    assert isinstance(entailment, Entailment)
    assert isinstance(first, Endpoint)
    assert [judge.label for judge in (rules, entailment, first, second)] == ["rules", "entailment", "large", "small"]
    assert first.describe() == {
        "label": "large",
        "name": "endpoint",
        "version": 1,
        "settings": {"url": URL, "model": "large", "prompt_version": 1},
        "judged_by": f"large at {URL}",
    }
    assert judged_by([rules.describe(), first.describe()]) == (
        "Answers were judged by fixed rules over their words (judge rules, version 2). Compared with it: large."
    )


def test_the_metrics_that_judges_give() -> None:
    assert judged_metrics(()) == ()
    assert judged_metrics(make_answer_judges("rules")) == JUDGED
    assert judged_metrics(make_answer_judges(["rules", "entailment"])) == (*JUDGED, "leakage_entailment")


@pytest.mark.parametrize(
    ("judge", "options", "says"),
    [
        (URL, {}, "which model of the endpoint? Pass suite.answer_judge_model=NAME, or http://localhost:1/v1#NAME"),
        (["rules", "rules"], {}, "suite.answer_judge=[rules, rules]: rules is named twice"),
        ([f"{URL}#a", f"{URL}/x#a"], {}, "a is named twice"),
        (
            "rules",
            {"answer_judge_model": "small"},
            "suite.answer_judge_model=small does not apply to suite.answer_judge=rules: it is for the URL of",
        ),
        (
            ["rules", "entailment"],
            {"answer_judge_rate": 5},
            "suite.answer_judge_rate=5 does not apply to suite.answer_judge=[rules, entailment]",
        ),
        (URL, {"answer_judge_model": "small", "entailment_model": "m"}, "it is for entailment. Leave it out"),
        (None, {"answer_judge_key": "KEY"}, "suite.answer_judge_key=KEY does not apply"),
        (URL, {"answer_judge_model": "small", "answer_judge_rate": 0}, "suite.answer_judge_rate=0: expected a number"),
    ],
)
def test_options_amiss(judge: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        make_answer_judges(judge, **options)
    assert says in str(error.value)


def test_unknown_judge_gets_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match=r"suite.answer_judge='rule': .* Did you mean 'rules'\?"):
        make_answer_judges(["entailment", "rule"])


def test_verdicts_by_label_in_the_order_of_what_was_asked() -> None:
    judges = make_answer_judges(["rules", "entailment"])
    asked = [Asked("Where?", "Vienna", "In Vienna."), Asked("Where?", "Vienna", "I do not know.")]
    assert verdicts_on(judges, asked) == [
        {"rules": AnswerVerdict(1, 1, 0), "entailment": AnswerVerdict(1, 1, 0)},
        {"rules": AnswerVerdict(0, 1, 1), "entailment": AnswerVerdict(0, 1, 1)},
    ]


def test_only_judges_whose_word_is_asked_for_are_checked() -> None:
    class Checked(Rules):
        checks = 0

        def check(self) -> None:
            self.checks += 1

    judges = (Checked(), Checked())
    suite = Suite("s", {"forget": (Row("q", "a"),)}, {"forget": ("leakage_judge", "rouge")}, answer_judges=judges)
    check_judge(suite, ["rouge"])
    assert [judge.checks for judge in judges] == [0, 0]
    check_judge(suite, None)
    assert [judge.checks for judge in judges] == [1, 1]
