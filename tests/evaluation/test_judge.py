"""Protects choosing a judge by what the user wrote, and what is said of one that does not exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from expunge.errors import ConfigError, UnknownNameError
from expunge.evaluation.judge import Given, check_judge, judge_names, make_judge
from expunge.evaluation.judges.endpoint import Endpoint
from expunge.evaluation.judges.rules import Rules
from expunge.evaluation.suite import Suite
from expunge.requests.rows import Row


def test_judges_are_found_by_their_files() -> None:
    assert judge_names() == ["classifier", "endpoint", "model", "rules"]


def test_a_name_comes_before_a_folder_that_is_called_so_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rules").mkdir()
    monkeypatch.chdir(tmp_path)
    judge = make_judge(Given("rules", markers=("zorb",)))
    assert isinstance(judge, Rules)
    assert judge.markers == ("zorb",)


def test_a_url_is_an_endpoint_and_needs_a_model() -> None:
    judge = make_judge(Given("http://localhost:1/v1", model="small", key_variable="MY_KEY"))
    assert isinstance(judge, Endpoint)
    assert judge.describe() == {
        "name": "endpoint",
        "version": 1,
        "settings": {"url": "http://localhost:1/v1", "model": "small"},
        "unsafe": "an answer that small at http://localhost:1/v1 calls unsafe",
    }
    with pytest.raises(ConfigError, match=r"Pass suite.judge_model=NAME"):
        make_judge(Given("https://example.org/v1"))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            Given("rules", model="foo"),
            "suite.judge_model=foo does not apply to suite.judge=rules: it is for the URL of",
        ),
        (Given("rules", model="foo"), "Leave it out (suite.judge_model=null"),
        (Given("rules", key_variable="MY_KEY", label="bad"), "suite.judge_key=MY_KEY does not apply"),
        (Given("rules", cache="c.jsonl"), "suite.judge_cache=c.jsonl does not apply"),
        (
            Given("classifier", markers=("zorb",)),
            "suite.markers=['zorb'] does not apply to suite.judge=classifier: it is for rules. Leave it out (suite.ma",
        ),
        (Given("http://localhost:1/v1", model="small", label="bad"), "suite.judge_label=bad does not apply"),
    ],
)
def test_an_option_that_does_not_apply_is_refused(given: Given, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        make_judge(given)
    assert says in str(error.value)


def test_only_a_judge_whose_verdict_is_asked_for_is_checked() -> None:
    class Checked(Rules):
        checks = 0

        def check(self) -> None:
            self.checks += 1

    judge = Checked()
    rows = (Row("how?", "so"),)
    suite = Suite("s", {"harmful": rows}, {"harmful": ("harmful_rate", "rejection")}, judge=judge)
    check_judge(suite, ["rejection"])
    assert judge.checks == 0
    check_judge(suite, None)
    assert judge.checks == 1


def test_unknown_judge_gets_a_suggestion() -> None:
    with pytest.raises(UnknownNameError) as error:
        make_judge(Given("rule"))
    assert "suite.judge='rule': there is no such judge. Did you mean 'rules'? Known: classifier, rules." in str(
        error.value
    )
    assert "the URL of an OpenAI-compatible endpoint" in str(error.value)
    assert "the folder of a sequence-classification model" in str(error.value)
