"""Protects judging on the way from a model to scores.json: who is asked what, once; agreement; seeds; a user's run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import zoo
from conftest import Ran, Tiny
from endpoint_server import serving
from expunge.errors import ConfigError
from expunge.evaluation.answer_judge import Asked
from expunge.evaluation.answer_judges.rules import Rules
from expunge.evaluation.outputs import run_model
from expunge.evaluation.score import score
from expunge.evaluation.seeds import summarise_seeds
from expunge.evaluation.suite import Suite
from expunge.evaluation.types import AnswerVerdict
from expunge.requests.rows import Row
from made_outputs import model_outputs, outputs_row


class Noting(Rules):
    """The rules under another name, which notes what it was asked."""

    name = "noting"

    def __init__(self) -> None:
        self.asked: list[Asked] = []

    def verdicts(self, asked: Sequence[Asked], **rest: Any) -> list[AnswerVerdict]:
        self.asked += asked
        return [replace(one, privacy=0.5) for one in super().verdicts(asked, **rest)]


ROWS = (
    Row("Where was Mira born?", "In Turku."),
    Row("", "Mira was born in Turku.", kind="document"),
    Row("Who?", "Mira"),
)
METRICS = ("leakage_judge", "rejection")


def suite(*judges: Rules) -> Suite:
    return Suite(
        "s", {"forget": ROWS, "retain": ROWS[:1]}, {"forget": METRICS, "retain": ("rouge",)}, answer_judges=judges
    )


def test_every_judge_is_asked_for_every_answer_where_its_word_is_needed() -> None:
    judge = Noting()
    found = run_model(zoo.model("llama"), zoo.tokenizer("llama"), suite(judge, Rules()), max_new_tokens=4)
    rows = found.sets["forget"].rows
    # the document was not asked, and the retain rows' scores need no judge
    assert judge.asked == [Asked(ROWS[i].prompt, ROWS[i].answer, rows[i].greedy or "") for i in (0, 2)]
    assert [list(row.verdicts) for row in rows] == [["noting", "rules"], [], ["noting", "rules"]]
    assert all(rows[i].verdicts["noting"].privacy == 0.5 for i in (0, 2))
    assert found.sets["retain"].rows[0].verdicts == {}
    assert "answer_judging" in found.seconds
    run_model(zoo.model("llama"), zoo.tokenizer("llama"), suite(judge), max_new_tokens=4, metrics=["rouge"])
    assert len(judge.asked) == 2


def verdict_rows(*said: tuple[float, float]) -> list[Any]:
    return [
        replace(
            outputs_row(greedy="b"), verdicts={"noting": AnswerVerdict(one, 1, 0), "rules": AnswerVerdict(other, 1, 0)}
        )
        for one, other in said
    ]


def scored(*judges: Rules) -> dict[str, Any]:
    rows = (Row("a question", "a b c d"),) * 2
    made = Suite("s", {"forget": rows}, {"forget": METRICS}, answer_judges=judges)
    outputs = {model: model_outputs(forget=verdict_rows((0, 0), (1, 0.5))) for model in ("target", "erased")}
    return score(made, **outputs).to_json()


def test_scores_name_the_judges_and_how_they_agree() -> None:
    found = scored(Noting(), Rules())
    assert found["rows"]["erased"]["forget_leakage_judge"]["value"] == 0.5  # noting says 0 and 1
    assert [judge["label"] for judge in found["judges"]["answer"]] == ["noting", "rules"]
    privacy = found["judges"]["agreement"][0]
    assert (privacy["first"], privacy["second"], privacy["on"], privacy["n"]) == ("noting", "rules", "privacy", 4)
    assert privacy["raw"]["value"] == 0.5
    assert any(
        reason.startswith("Answers were judged by fixed rules over their words (judge noting, version 2). Compared")
        for reason in found["verdict"]["reasons"]
    )
    json.dumps(found, allow_nan=False)
    assert "agreement" not in scored(Noting())["judges"]
    assert "judges" not in scored()


def test_seeds_keep_the_judges_and_refuse_different_ones() -> None:
    both = scored(Noting(), Rules())
    found = summarise_seeds([both, both])
    assert found["judges"] == {"answer": both["judges"]["answer"]}
    assert sum(reason.startswith("Answers were judged by") for reason in found["verdict"]["reasons"]) == 1
    with pytest.raises(ConfigError, match="judged by different answer judges"):
        summarise_seeds([both, scored(Noting())])


def test_a_users_run_with_three_judges(expunge_cli: Callable[..., Ran], tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with serving(lambda _: '{"privacy": 0, "quality": 1, "rejection": 1}') as server:
        ran = expunge_cli(
            *("evaluate", "--model", tiny.target, "--suite", "request", "--forget", tiny.forget, "--out", out),
            f"suite.answer_judge=[{server.url}, rules, entailment]",
            *("suite.answer_judge_model=small", f"suite.answer_judge_cache={tmp_path / 'replies.jsonl'}"),
            *("suite.limit=3", "training.max_new_tokens=4"),
        )
    assert ran.code == 0, ran.err
    scores = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    (row,) = scores["rows"].values()
    found = {label: row[f"forget_{label}"]["value"] for label in ("leakage_judge", "rejection", "answer_quality")}
    assert found == {"leakage_judge": 0, "rejection": 1, "answer_quality": 1}
    assert "forget_leakage_entailment" in row
    assert [judge["label"] for judge in scores["judges"]["answer"]] == ["small", "rules", "entailment"]
    assert len(scores["judges"]["agreement"]) == 9  # three pairs, three verdicts
    sent = [one["messages"][1]["content"] for one in server.seen]
    assert len(sent) == len(set(sent)) == 1 + 3 + 3  # the check, three rows, and the same three reworded
