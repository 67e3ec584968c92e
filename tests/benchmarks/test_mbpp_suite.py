"""Protects suite mbpp: the paper's prompt and shots, tasks by their numbers, and answers that are run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from expunge.benchmarks import mbpp
from expunge.errors import ConfigError, RequestError
from expunge.evaluation.code_answers import CodeRow
from expunge.evaluation.metrics.pass_at_1 import METRIC
from expunge.evaluation.types import RowOutputs, SetOutputs

DATA = Path(__file__).parent / "public" / "mbpp" / "mbpp.jsonl"
TASK_11 = """You are an expert Python programmer, and here is your task: Write a python function to remove first and \
last occurrence of a given character from the string. Your code should pass these tests:

assert remove_Occ("hello","l") == "heo"
assert remove_Occ("abcda","a") == "bcd"
assert remove_Occ("PHP","P") == "H"
"""


def code_rows(*given: object, **options: object) -> list[CodeRow]:
    rows = mbpp.build(*given, **options).sets["tasks"]  # type: ignore[arg-type]
    assert all(isinstance(row, CodeRow) for row in rows)
    return list(rows)  # type: ignore[arg-type]


def test_three_solved_tasks_come_first() -> None:
    rows = code_rows(DATA)
    assert [row.task for row in rows] == [11, 12, 14, 367]
    prompt = rows[0].prompt
    parts = prompt.split("[DONE]\n\n")
    assert len(parts) == 4
    assert [part.count("[BEGIN]\n") for part in parts] == [1] * 4
    assert "similar elements" in parts[0] and "non-prime" in parts[1] and "heap queue" in parts[2]
    assert "\n[BEGIN]\nimport math\ndef is_not_prime(n):\n    result = False\n" in parts[1]  # no carriage returns
    assert parts[3] == f"{TASK_11}[BEGIN]\n"
    assert rows[0].tests == tuple(TASK_11.splitlines()[2:])
    assert rows[0].answer.startswith("def remove_Occ(s,ch): \n") and rows[0].answer.endswith("\n[DONE]")
    assert (rows[0].kind, rows[0].source) == ("completion", "mbpp.jsonl:4")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="code is run on Linux alone")
def test_reference_solutions_pass() -> None:
    rows = code_rows(DATA, seconds=5, workers=2)
    outputs = SetOutputs("tasks", tuple(RowOutputs(row, greedy=row.answer) for row in rows))
    assert METRIC.score(outputs).value == 1.0  # 367's tests need what its setup makes of the solution's class
    others = tuple(RowOutputs(row, greedy=rows[0].answer) for row in rows)
    assert METRIC.score(SetOutputs("tasks", others)).value == 0.25
    assert rows[0].sandbox is not None
    assert (rows[0].sandbox.limits.seconds, rows[0].sandbox.workers) == (5, 2)


def test_turns_and_no_shots() -> None:
    row = code_rows(DATA, shots=1, turns=True)[0]
    assert [role for role, _ in row.history] == ["user", "assistant"]
    assert row.prompt == TASK_11.rstrip()
    assert row.kind == "chat" and row.tests
    assert code_rows(DATA, shots=0)[0].prompt == f"{TASK_11}[BEGIN]\n"


def test_a_folder_of_splits_and_the_sanitized_schema(tmp_path: Path) -> None:
    records = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    for record in records:
        record["prompt"] = record.pop("text")
        record["test_imports"] = ["import math"] if record["task_id"] == 12 else []
    for name, tasks in (("prompt", (2, 3, 4)), ("test", (11, 12))):
        chosen = [record for record in records if record["task_id"] in tasks]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in chosen))
    rows = code_rows(tmp_path)
    assert [(row.task, row.setup) for row in rows] == [(11, ""), (12, "import math")]
    assert rows[0].prompt == code_rows(DATA)[0].prompt


def test_tasks_with_other_numbers_are_asked_where_there_are_no_test_tasks(tmp_path: Path) -> None:
    record = {"text": "Do it.", "code": "x = 1", "test_list": ["assert x"], "task_id": 5000}
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps(record) + "\n")
    assert [row.task for row in code_rows(path, shots=0)] == [5000]
    with pytest.raises(RequestError, match="3 solved tasks were asked for, and it has 0 of the tasks for prompts"):
        mbpp.build(path)


def test_bad_rows_and_options(tmp_path: Path) -> None:
    path = tmp_path / "mbpp.jsonl"
    good = {"text": "t", "code": "c", "task_id": 11}
    bad = [{**good, "test_list": []}, {**good, "test_list": "assert x"}, {"test_list": ["a"], "task_id": "x"}]
    path.write_text("".join(json.dumps(one) + "\n" for one in bad))
    with pytest.raises(RequestError) as caught:
        mbpp.build(path)
    told = str(caught.value)
    assert "3 of 3 rows cannot be used" in told
    assert "mbpp.jsonl:1: test_list is empty, expected asserts" in told
    assert "mbpp.jsonl:2: test_list is 'assert x', expected a list of texts" in told
    assert "mbpp.jsonl:3: no text or prompt" in told and "mbpp.jsonl:3: task_id is 'x'" in told
    with pytest.raises(ConfigError, match="shots is 11"):
        mbpp.build(DATA, shots=11)
    with pytest.raises(ConfigError, match="memory_bytes is"):
        mbpp.build(DATA, memory_mb=1)
