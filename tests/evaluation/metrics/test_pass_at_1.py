"""Protects the score of code: what of an answer is code, that it is run, and what is written for evalplus."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from expunge.errors import ControlError
from expunge.evaluation.code_answers import CodeRow, code_in, run_answers, write_evalplus
from expunge.evaluation.metrics.pass_at_1 import METRIC
from expunge.evaluation.sandbox import Limits, Sandbox
from expunge.evaluation.types import RowOutputs, SetOutputs
from expunge.requests.rows import Row

CODE = "def f(x):\n    return x + 1"
ROW = CodeRow("task", CODE, tests=("assert f(1) == 2", "assert f(-1) == 0"), task=12)
on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="code is run on Linux alone")


@pytest.mark.parametrize(
    "answer",
    [
        CODE,
        f"[BEGIN]\n{CODE}\n[DONE]",
        f"{CODE}\n[DONE]\n\nYou are an expert Python programmer, and here is your task: more\n[BEGIN]\ndef g(): pass",
        f"Here is the function:\n```python\n{CODE}\n```\nIt adds one.",
        f"```\n{CODE}\n```",
        f"``` Python\n{CODE}",  # cut off before the block was closed
        f"Run\n```bash\npip install x\n```\nthen\n```py\n{CODE}\n```\n```python\nprint(f(1))\n```",
        f"```python\n[BEGIN]\n{CODE}\n[DONE]\n```",
        f"{CODE}\nQuestion: what else?",
        f"\r\n{CODE}\n```\nsome words",
    ],
)
def test_the_code_in_an_answer(answer: str) -> None:
    assert code_in(answer) == f"{CODE}\n"


def test_other_languages_blocks_are_no_code() -> None:
    assert code_in("```bash\nls\n```") == "```bash\nls\n"  # nothing better is there, and it will not run
    assert code_in("") == "\n"


@on_linux
def test_share_of_rows_whose_tests_pass() -> None:
    greedy = [CODE, "def f(x): return x - 1", "I cannot write code.", "while True: pass", f"```python\n{CODE}\n```"]
    sandbox = Sandbox(Limits(seconds=0.5), workers=2)
    rows = tuple(RowOutputs(CodeRow("task", CODE, tests=ROW.tests, sandbox=sandbox), greedy=one) for one in greedy)
    plain = (RowOutputs(Row("q", "a"), greedy="a"), RowOutputs(ROW))
    outcomes = run_answers([*rows, *plain])
    assert [one and one.verdict for one in outcomes] == [
        "passed",
        "failed",
        "error",
        "timed out",
        "passed",
        None,
        None,
    ]
    score = METRIC.score(SetOutputs("tasks", rows + plain))
    # 2 of 5; sd of (1, 0, 0, 0, 1) is sqrt(1.2 / 4) = .5477, over sqrt(5)
    assert (score.value, score.n) == (0.4, 5)
    assert score.stderr == pytest.approx(0.244949, abs=1e-6)
    assert METRIC.per_row(rows[0]) == 1.0
    with pytest.raises(ControlError, match="no row has tests and a greedy answer"):
        METRIC.score(SetOutputs("tasks", plain))


@on_linux
def test_setup_comes_between_code_and_tests() -> None:
    row = CodeRow("task", "class Node: pass", tests=("assert isinstance(root, Node)",), setup="root = Node()")
    (outcome,) = run_answers([RowOutputs(row, greedy="class Node: pass")])
    assert outcome is not None and outcome.passed


def test_samples_for_evalplus(tmp_path: Path) -> None:
    rows = [
        RowOutputs(ROW, greedy=f"```python\n{CODE}\n```"),
        RowOutputs(CodeRow("t", "c", task=11), greedy="x = 'é'\n[DONE]"),
        RowOutputs(ROW),
    ]
    write_evalplus(rows, tmp_path / "samples.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines == [
        {"task_id": "Mbpp/12", "solution": f"{CODE}\n"},
        {"task_id": "Mbpp/11", "solution": "x = 'é'\n"},
    ]
