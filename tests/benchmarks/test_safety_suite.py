"""Protects suite safety: which rows it asks, who judges them, what it cannot score, and held-out prompts held out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from expunge.benchmarks import safety
from expunge.errors import ConfigError, ControlError, RequestError, UnknownNameError
from expunge.evaluation.suite import select
from expunge.requests.request import Request
from expunge.requests.rows import Row

HARMFUL = tuple(
    Row(f"how {i}?", f"zorb {i}", paraphrased_prompt=f"in what way {i}?" if i % 2 else None) for i in range(6)
)
NORMAL = tuple(Row(f"question {i}?", f"answer {i}") for i in range(4))


def write(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def marked(number: int, unsafe: str, safe: str) -> dict[str, Any]:
    responses = {"response_0": unsafe, "response_1": safe, "is_response_0_safe": False, "is_response_1_safe": True}
    return {"prompt": f"make {number}?", **responses}


def test_rows_come_from_the_request() -> None:
    suite = safety.build(Request(forget=HARMFUL, retain=NORMAL), markers="zorb")
    assert {name: len(rows) for name, rows in suite.sets.items()} == {
        "harmful": 6,
        "harmful_paraphrased": 3,  # the rows that have another form of their prompt
        "normal": 4,
    }
    assert [row.prompt for row in suite.sets["harmful_paraphrased"]] == [f"in what way {i}?" for i in (1, 3, 5)]
    assert {
        "harmful_harmful_rate",
        "harmful_rejection",
        "normal_perplexity",
        "normal_exact",
        "normal_harmful_rate",
    } <= set(suite.keys())
    assert suite.utility == "normal_probability"
    assert dict(suite.plays) == {"forget": "harmful", "retain": "normal"}
    assert suite.judge is not None
    assert suite.judge.describe()["settings"] == {"markers": ["zorb"]}
    assert suite.describe()["judge"]["name"] == "rules"
    assert select(suite, ["harmful_rate"]).needs(suite)["harmful"] == {"greedy", "judged"}


def test_rows_come_from_files(tmp_path: Path) -> None:
    harmful = write(tmp_path / "harmful.jsonl", marked(1, "zorb", "no"), marked(2, "more zorb", "never"))
    holdout = write(tmp_path / "holdout.jsonl", marked(3, "zorb", "no"))
    suite = safety.build(harmful=harmful, normal=harmful, holdout=holdout, markers=["zorb"])
    assert [row.answer for row in suite.sets["harmful"]] == ["zorb", "more zorb"]
    assert [row.answer for row in suite.sets["harmful_holdout"]] == ["zorb"]
    assert [row.answer for row in suite.sets["normal"]] == ["no", "never"]
    assert list(suite.sets) == ["harmful", "harmful_holdout", "normal"]
    # files come before the request's own rows
    both = safety.build(Request(forget=HARMFUL, retain=NORMAL), harmful=harmful)
    assert (len(both.sets["harmful"]), len(both.sets["normal"])) == (2, 4)


def test_limit_thins_every_set_and_the_judge_still_learns_from_all(tmp_path: Path) -> None:
    records = [marked(i, f"stir zorb paste {i} times", f"there are {i} planets out there") for i in range(12)]
    suite = safety.build(
        harmful=write(tmp_path / "harmful.jsonl", *records),
        normal=write(tmp_path / "normal.jsonl", {"question": "q", "answer": "planets"}),
        judge="classifier",
        limit=3,
    )
    assert len(suite.sets["harmful"]) == 3
    assert suite.judge is not None
    # 12 unsafe responses; their 12 safe ones and the normal answer
    assert (suite.judge.settings["unsafe"], suite.judge.settings["safe"]) == (12, 13)


def test_without_markers_normal_answers_are_not_judged() -> None:
    suite = safety.build(Request(forget=HARMFUL, retain=NORMAL))
    keys = suite.keys()
    assert "normal_harmful_rate" not in keys
    assert "harmful_harmful_rate" in keys
    assert "suite.markers" in select(suite).left_out["normal_harmful_rate"]
    with pytest.raises(ControlError, match=r"normal_harmful_rate was asked for, but judge rules without suite.markers"):
        select(suite, ["normal_harmful_rate"])


def test_without_normal_rows() -> None:
    suite = safety.build(Request(forget=HARMFUL))
    assert suite.utility is None
    assert "pass --retain FILE or suite.normal=FILE" in select(suite).left_out["normal_perplexity"]


def test_without_harmful_rows() -> None:
    with pytest.raises(ConfigError, match=r"no harmful prompts: pass --forget FILE or suite.harmful=FILE"):
        safety.build()


def test_file_without_unsafe_rows_is_refused(tmp_path: Path) -> None:
    record = {**marked(1, "a", "b"), "is_response_0_safe": True}
    with pytest.raises(RequestError, match="no unsafe rows"):
        safety.build(harmful=write(tmp_path / "harmful.jsonl", record))


def test_held_out_prompts_must_be_held_out(tmp_path: Path) -> None:
    holdout = write(
        tmp_path / "holdout.jsonl", marked(3, "zorb", "no"), {**marked(4, "zorb", "no"), "prompt": "HOW  2?"}
    )
    with pytest.raises(RequestError, match=r"1 of its 2 prompts are among the harmful ones \(holdout.jsonl:2\)"):
        safety.build(Request(forget=HARMFUL), holdout=holdout)


def test_unknown_judge() -> None:
    with pytest.raises(UnknownNameError, match="there is no such judge"):
        safety.build(Request(forget=HARMFUL), judge="oracle")
