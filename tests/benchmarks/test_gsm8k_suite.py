"""Protects suite gsm8k: worked problems before the question, in its standard form, from files of the public schema."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from expunge.benchmarks import gsm8k
from expunge.errors import ConfigError, RequestError

DATA = Path(__file__).parent / "public" / "gsm8k"


def test_eight_worked_problems_come_first() -> None:
    rows = gsm8k.build(DATA).sets["problems"]
    assert len(rows) == 3
    prompt = rows[0].prompt
    assert prompt.count("Question: ") == prompt.count("\nAnswer: ") == 9
    assert prompt.count("\n#### ") == 8
    assert prompt.startswith("Question: Natalia sold clips to 48 of her friends")
    assert "sold 48/2 = 24 clips in May.\nNatalia sold 48+24 = 72 clips" in prompt
    assert "\n#### 72\n\nQuestion: Weng earns $12 an hour" in prompt
    assert prompt.endswith("at the farmers' market?\nAnswer: ")
    assert "<<" not in prompt  # the calculator's marks
    assert rows[0].answer.splitlines() == [
        "Janet sells 16 - 3 - 4 = 9 duck eggs a day.",
        "She makes 9 * 2 = $18 every day at the farmer\u2019s market.",
        "#### 18",
    ]
    assert (rows[0].kind, rows[0].source) == ("completion", "test.jsonl:1")


def test_keys() -> None:
    assert {"problems_exact_number", "problems_probability"} <= set(gsm8k.build(DATA).keys())


def test_shots_as_turns() -> None:
    row = gsm8k.build(DATA, shots=2, turns=True).sets["problems"][1]
    assert row.kind == "chat"
    assert [role for role, _ in row.history] == ["user", "assistant"] * 2
    assert row.history[1][1].endswith("#### 72")
    assert row.prompt.startswith("A robe takes 2 bolts")
    alone = gsm8k.build(DATA, shots=0, turns=True).sets["problems"][1]
    assert (alone.kind, alone.history) == ("question", ())


def test_limit_and_no_shots_need_no_training_rows(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text((DATA / "test.jsonl").read_text(encoding="utf-8"), encoding="utf-8")
    suite = gsm8k.build(tmp_path, shots=0, limit=2)
    assert [row.prompt[10:15] for row in suite.sets["problems"]] == ["Janet", "A rob"]  # places 0 and 3 // 2


@pytest.mark.parametrize("suffix", [".json", ".csv", ".parquet"])
def test_other_formats(suffix: str, tmp_path: Path) -> None:
    records = [json.loads(line) for line in (DATA / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    path = tmp_path / f"rows{suffix}"
    if suffix == ".json":
        path.write_text(json.dumps(records), encoding="utf-8")
    elif suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(records[0]))
            writer.writeheader()
            writer.writerows(records)
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    suite = gsm8k.build(test=path, train=DATA / "train.jsonl")
    assert suite.sets["problems"] == gsm8k.build(DATA).sets["problems"]


def test_bad_rows_of_both_files_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text('{"question": "q", "answer": "no mark 4"}\n{"question": "q"}\n')
    (tmp_path / "train.jsonl").write_text('{"question": "", "answer": "#### 4"}\n')
    with pytest.raises(RequestError) as caught:
        gsm8k.build(tmp_path)
    told = str(caught.value)
    assert "test.jsonl:1: answer ends in 'no mark 4', expected '#### ' and a number" in told
    assert "test.jsonl:2: no answer; columns found: question" in told
    assert "train.jsonl:1: no question; columns found" in told


def test_impossible_shots() -> None:
    with pytest.raises(RequestError, match="9 worked problems were asked for and train has 8"):
        gsm8k.build(DATA, shots=9)
    with pytest.raises(ConfigError, match="shots is -1"):
        gsm8k.build(DATA, shots=-1)
