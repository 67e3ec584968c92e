"""Protects what a report says of how two answer judges agree, and what metrics and sets of public suites are called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from expunge.evaluation.agreement import agreement
from expunge.evaluation.registry import metric_names
from expunge.reports import load_run, report
from expunge.reports.agreement import judges_agreement
from expunge.reports.names import metric_name

from .fake_runs import write_run
from .test_page import Page


def judged(folder: Path, found: list[dict[str, Any]]) -> Path:
    write_run(folder)
    scores = json.loads((folder / "scores.json").read_text("utf-8"))
    judges = {"answer": [{"kind": "rules"}, {"kind": "entailment"}], "agreement": found}
    (folder / "scores.json").write_text(json.dumps({**scores, "judges": judges}), "utf-8")
    return folder


def entry(on: str, first: list[float], second: list[float], levels: list[float]) -> dict[str, Any]:
    one = agreement(first, second, levels)
    assert one is not None
    return {"first": "rules", "second": "entailment", "on": on, **one.to_json()}


def test_two_judges_are_compared_verdict_by_verdict(tmp_path: Path) -> None:
    found = [
        # 3 of 4 alike; by chance 1/2 * 1/4 + 1/2 * 3/4 = 1/2 are: kappa (3/4 - 1/2) / (1 - 1/2) = 1/2
        entry("rejection", [0, 0, 1, 1], [0, 1, 1, 1], [0.0, 1.0]),
        # steps 0, 1, 2: squared 0 0 0 1 of 4, 1/4; expected: first 1/2 at 0, 1/2 at 2; second 1/2, 1/4 at 1, 1/4 at 2:
        # 1/2 * (0 + 1/4 + 4/4) + 1/2 * (4/2 + 1/4 + 0) = 7/4, so 1 - (1/4) / (7/4) = 6/7
        entry("privacy", [0, 0, 1, 1], [0, 0, 0.5, 1], [0.0, 0.5, 1.0]),
        # both always say the same: there is nothing that chance could not do
        entry("quality", [1, 1], [1, 1], [0.0, 0.25, 0.5, 0.75, 1.0]),
    ]
    rows = judges_agreement(load_run(judged(tmp_path / "run", found)))
    assert [(row.judges, row.on, row.n, row.same, row.kappa) for row in rows] == [
        ("rules and entailment", "declines", "4", "75%", "0.500"),
        ("rules and entailment", "gives it away", "4", "75%", "0.857"),
        ("rules and entailment", "answer quality", "2", "100%", "not defined"),
    ]
    assert rows[2].kappa_interval == ""
    page = Page(report(tmp_path / "run"))
    assert "Do the judges agree?" in page.text
    assert "gives it away" in page.text


def test_one_judge_alone_has_no_table(tmp_path: Path) -> None:
    folder = judged(tmp_path / "run", [])
    assert judges_agreement(load_run(folder)) == []
    assert "Do the judges agree?" not in report(folder).read_text("utf-8")
    assert judges_agreement(load_run(write_run(tmp_path / "plain"))) == []


@pytest.mark.parametrize(
    "name", ["min_k", "membership_auc", "privleak", "rouge_f1", "as_target_rouge", "as_target_bleu", "answer_words"]
)
def test_metrics_of_the_public_suites_have_names(name: str) -> None:
    assert name in metric_names()
    named = metric_name(name)
    assert named.meaning
    assert len(named.short) <= 18


def test_the_sets_of_people_have_titles() -> None:
    named = metric_name("hard_retain_leakage")
    assert (named.label, named.short) == ("Hard to keep leakage", "hard leakage")
    assert metric_name("general_retain_rouge").group == "general_retain"
    assert metric_name("forget_rouge_f1").label == "Forget ROUGE-L F1"
    assert metric_name("forget_as_target_rouge").group == "forget"
