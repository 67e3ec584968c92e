"""Protects safety sets as rows: unsafe responses are forgotten, safe ones kept, and a set without any is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from expunge.errors import RequestError
from expunge.requests import Request, Row, load_rows
from expunge.requests.responses import NoResponsesError


def pair(first: Any, second: Any, number: int = 0) -> dict[str, Any]:
    """A PKU-SafeRLHF record whose responses have these marks, with columns that are passed over."""
    return {
        "prompt": f"how {number}?",
        "response_0": f"first {number}",
        "response_1": f"second {number}",
        "is_response_0_safe": first,
        "is_response_1_safe": second,
        "better_response_id": 1,
        "response_0_severity_level": 0,
    }


RECORDS = [pair(False, True, 0), pair(False, False, 1), pair(True, True, 2)]


def answers(rows: tuple[Row, ...]) -> list[str]:
    return [row.answer for row in rows]


def test_a_record_gives_a_row_for_each_response_that_is_meant() -> None:
    unsafe, safe = load_rows(RECORDS, responses="unsafe"), load_rows(RECORDS, responses="safe")
    assert answers(unsafe) == ["first 0", "first 1", "second 1"]
    assert answers(safe) == ["second 0", "first 2", "second 2"]
    assert unsafe[1] == Row("how 1?", "first 1")
    assert [row.source for row in unsafe] == ["rows[0]", "rows[1]", "rows[1]"]


def test_a_request_forgets_the_unsafe_and_keeps_the_safe_of_one_file(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS), encoding="utf-8")
    request = Request.load(path, retain=path, neighbours=[pair(True, False, 7)], holdout=[pair(True, False, 8)])
    assert answers(request.forget) == ["first 0", "first 1", "second 1"]
    assert answers(request.retain) == ["second 0", "first 2", "second 2"]
    assert (answers(request.neighbours), answers(request.holdout)) == (["first 7"], ["second 8"])


def test_single_responses_as_in_beavertails() -> None:
    records = [{"prompt": "p", "response": f"r{mark}", "is_safe": mark, "category": {"a": 1}} for mark in (True, False)]
    assert answers(load_rows(records, responses="unsafe")) == ["rFalse"]
    assert answers(load_rows(records, responses="safe")) == ["rTrue"]


def test_both_responses_are_of_their_record_s_group() -> None:
    (first, second) = load_rows([{**pair(False, False, 0), "group": "fraud"}], responses="unsafe")
    assert (first.group, second.group) == ("fraud", "fraud")


@pytest.mark.parametrize(("unsafe", "safe"), [("False", "True"), ("false", " TRUE "), (0, 1), ("0", "1"), (0.0, 1.0)])
def test_marks_as_tables_write_them(unsafe: Any, safe: Any) -> None:
    assert answers(load_rows([pair(unsafe, safe)], responses="unsafe")) == ["first 0"]


def test_csv_with_paraphrased_prompts(tmp_path: Path) -> None:
    path = tmp_path / "set.csv"
    path.write_text(
        "prompt,response_0,response_1,is_response_0_safe,is_response_1_safe,paraphrased_prompt\n"
        "p,a,b,True,False,other words\n",
        encoding="utf-8",
    )
    (row,) = load_rows(path, responses="unsafe")
    assert row == Row("p", "b", paraphrased_prompt="other words")
    assert row.source == "set.csv:2"


@pytest.mark.parametrize(("responses", "mark"), [("unsafe", True), ("safe", False)])
def test_set_without_any_is_refused(responses: Any, mark: bool) -> None:
    with pytest.raises(NoResponsesError) as error:
        load_rows([pair(mark, mark), pair(mark, mark)], name="set", responses=responses)
    text = str(error.value)
    assert text.startswith(f"set: no {responses} rows: every response of its 2 rows is marked")
    assert f"Pass a file with {responses} responses" in text
    assert f"(is_response_0_safe, is_response_1_safe are {str(mark).lower()} throughout)" in text


def test_only_marks_that_are_there_are_named() -> None:
    with pytest.raises(NoResponsesError, match=r"\(Is Safe is true throughout\)"):
        load_rows([{"prompt": "p", "response": "r", "Is Safe": True}], responses="unsafe")


@pytest.mark.parametrize("columns", [None, {"prompt": "asked"}])
def test_a_pair_without_one_of_its_responses_is_named(columns: Any) -> None:
    record = {name: value for name, value in pair(False, True).items() if name != "response_1"}
    if columns:
        record["asked"] = record.pop("prompt")
    with pytest.raises(RequestError) as error:
        load_rows([record, record], columns=columns, responses="unsafe")
    text = str(error.value)
    assert "missing response_1 of PKU-SafeRLHF's schema" in text
    assert "--column" not in text
    assert "(the same in 1 more rows" in text


def test_forget_file_without_unsafe_rows_is_one_of_all_problems() -> None:
    with pytest.raises(RequestError) as error:
        Request.load([pair(True, True)], retain=[{"question": "q"}])
    assert "forget: no unsafe rows" in str(error.value)
    assert "retain: 1 of 1 rows cannot be used" in str(error.value)


def test_which_responses_must_be_said() -> None:
    with pytest.raises(RequestError) as error:
        load_rows(RECORDS)
    assert "nothing says which are meant" in str(error.value)
    assert "expunge train --responses safe|unsafe" in str(error.value)
    assert "(the same in 2 more rows" in str(error.value)  # once, not three times
    assert load_rows([{"question": "q", "answer": "a"}], responses="unsafe") == (Row("q", "a"),)


def test_bad_marks_and_empty_responses() -> None:
    records = [pair(None, True), pair("perhaps", False, 1), {**pair(False, True, 2), "response_0": " "}]
    with pytest.raises(RequestError) as error:
        load_rows(records, responses="unsafe")
    text = str(error.value)
    assert "rows[0]: is_response_0_safe is None, expected true or false" in text
    assert "rows[1]: is_response_0_safe is 'perhaps', expected true or false" in text
    assert "rows[2]: response_0 is empty, expected text" in text
    # a response that is not meant is nobody's business
    assert answers(load_rows([{**pair(False, True), "response_1": ""}], responses="unsafe")) == ["first 0"]


def test_prompt_of_marked_responses_can_be_mapped() -> None:
    record = {"asked" if name == "prompt" else name: value for name, value in pair(False, True).items()}
    assert load_rows([record], columns={"prompt": "asked"}, responses="unsafe") == (Row("how 0?", "first 0"),)


@pytest.mark.parametrize(
    "columns", ["Best Answer,Correct Answers,Incorrect Answers", "Best Answer,Best Incorrect Answer,Incorrect Answers"]
)
def test_truthfulqa_in_both_versions(tmp_path: Path, columns: str) -> None:
    path = tmp_path / "TruthfulQA.csv"
    path.write_text(
        f'\ufeffType,Category,Question,{columns},Source\nAdversarial,Fiction,Do pigs fly?,"No, they walk",x,'
        '"Yes, they do; Yes, high up;Only at night",http://example.org\n',
        encoding="utf-8",
    )
    (row,) = load_rows(path)
    assert row == Row("Do pigs fly?", "No, they walk", wrong_answers=("Yes, they do", "Yes, high up", "Only at night"))
