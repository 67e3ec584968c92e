"""Protects suite mmlu: five shots of the same subject, letters and whole options, every public form of the files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from expunge.benchmarks import mmlu
from expunge.errors import ConfigError, RequestError

DATA = Path(__file__).parent / "public" / "mmlu"


def test_letters_after_five_shots_of_the_subject() -> None:
    rows = mmlu.build(DATA).sets["letter"]
    assert len(rows) == 6
    prompt = rows[0].prompt
    assert prompt.startswith(
        "The following are multiple choice questions (with answers) about anatomy.\n\n"
        "What is the embryological origin of the hyoid bone?\nA. The first pharyngeal arch\n"
    )
    assert prompt.count("\nAnswer: ") == 6
    assert "D. The second and third pharyngeal arches\nAnswer: D\n\nWhich of these branches" in prompt
    assert prompt.endswith(
        "C. paralysis of the facial muscles, loss of taste and lacrimation.\n"
        "D. paralysis of the facial muscles, loss of taste, lacrimation and decreased salivation.\nAnswer: "
    )
    assert (rows[0].answer, rows[0].wrong_answers, rows[0].kind) == ("A", ("B", "C", "D"), "completion")
    assert rows[0].source == "anatomy_test.csv:2"
    assert "about management." in rows[3].prompt and "hyoid" not in rows[3].prompt


def test_whole_options() -> None:
    row = mmlu.build(DATA, shots=1).sets["option"][4]
    assert row.prompt == (
        "Question: What are the two main dimensions of the Ohio Studies into leadership?\n"
        "Answer: Initiating structure and considerations\n\n"
        "Question: What is the term for the 'rule of thumb' type of bias in decision making?\nAnswer: "
    )
    assert row.answer == "Heuristics"
    assert row.wrong_answers == ("Framing bias", "Hindsight bias", "Over-confidence bias")


def test_turns_subjects_and_limit() -> None:
    suite = mmlu.build(DATA, subjects="management", shots=2, turns=True, limit=1)
    (row,) = suite.sets["letter"]
    assert row.history[0] == (
        "system",
        "The following are multiple choice questions (with answers) about management.",
    )
    assert [role for role, _ in row.history] == ["system", "user", "assistant", "user", "assistant"]
    assert row.history[2] == ("assistant", "D")
    assert row.kind == "chat"
    assert {"letter_top_option", "letter_probability", "option_top_option"} <= set(suite.keys())
    with pytest.raises(ConfigError, match=r"mmlu has no subject 'anatomie'\. Did you mean 'anatomy'"):
        mmlu.build(DATA, subjects=["anatomie"])


def test_files_without_a_header_and_one_file_with_subjects(tmp_path: Path) -> None:
    bare, whole = tmp_path / "bare", tmp_path / "whole"
    whole.mkdir()
    for split in ("dev", "test"):
        (bare / split).mkdir(parents=True)
        records = []
        for subject in ("anatomy", "management"):
            with (DATA / split / f"{subject}_{split}.csv").open(encoding="utf-8", newline="") as file:
                _, *rows = csv.reader(file)
            with (bare / split / f"{subject}_{split}.csv").open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([*cells[:5], "ABCD"[int(cells[5])]] for cells in rows)
            records += [
                {"question": cells[0], "choices": cells[1:5], "answer": int(cells[5]), "subject": subject}
                for cells in rows
            ]
        (whole / f"{split}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    expected = mmlu.build(DATA).sets
    assert mmlu.build(whole).sets == expected
    found = mmlu.build(bare).sets
    assert found == expected
    assert found["letter"][0].source == "anatomy_test.csv:1"


def test_bad_rows_at_once(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text(
        '{"question": "q", "choices": ["a", "b"], "answer": 2}\n'
        '{"question": "q", "choices": ["a"], "answer": 0}\n'
        '{"question": "q", "choices": ["a", "b"], "answer": "E!"}\n'
        '{"choices": ["a", "b"], "answer": "B"}\n'
    )
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "x_dev.csv").write_text("q,a,b,c,d,A\nq,a,b\n")
    with pytest.raises(RequestError) as caught:
        mmlu.build(tmp_path)
    told = str(caught.value)
    assert "test.jsonl:1: answer is 2, and there are 2 options" in told
    assert "test.jsonl:2: has 1 options, expected 2 to 10" in told
    assert "test.jsonl:3: answer is 'E!', expected a whole number" in told
    assert "test.jsonl:4: no question" in told
    assert "x_dev.csv:2: found 3 fields, expected question, A, B, C, D, answer" in told


def test_too_few_shots() -> None:
    with pytest.raises(RequestError, match="fewer than 6 dev questions in anatomy, management"):
        mmlu.build(DATA, shots=6)
    assert len(mmlu.build(DATA, shots=0).sets["letter"]) == 6
    with pytest.raises(ConfigError, match="shots is -1"):
        mmlu.build(DATA, shots=-1)
