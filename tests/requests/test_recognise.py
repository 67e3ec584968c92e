"""Protects recognition: which columns become which part of a row, and what a bad row is told."""

from __future__ import annotations

from typing import Any

import pytest

from expunge.errors import RequestError
from expunge.requests import Row, load_rows


def one(record: dict[str, Any], columns: dict[str, str] | None = None) -> Row:
    (row,) = load_rows([record], columns=columns)
    return row


USER = {"role": "user", "content": "Hi"}
ASSISTANT = {"role": "assistant", "content": "Hello"}

GOOD: dict[str, tuple[dict[str, Any], Row]] = {
    "question": ({"question": "q", "answer": "a", "id": 3}, Row("q", "a")),
    "letter case": ({"name": "n", "Question": "q", "Answer": "a"}, Row("q", "a")),
    "perturbed": (
        {
            "question": "q",
            "answer": "a",
            "paraphrased_question": "pq",
            "paraphrased_answer": "pa",
            "perturbed_answer": ["x", "y"],
        },
        Row("q", "a", paraphrased_prompt="pq", paraphrased_answer="pa", wrong_answers=("x", "y")),
    ),
    "nulls of a table": (
        {"question": "q", "answer": "a", "paraphrased_answer": None, "perturbed_answer": None, "text": None},
        Row("q", "a"),
    ),
    "wrong answers as JSON text": (
        {"question": "q", "answer": "a", "perturbed_answer": '["x", "y"]', "paraphrased_question": ""},
        Row("q", "a", wrong_answers=("x", "y")),
    ),
    "one wrong answer": (
        {"question": "q", "answer": "a", "wrong_answers": "x"},
        Row("q", "a", wrong_answers=("x",)),
    ),
    "options": (
        {"question": "q", "option1": "1", "option2": "2", "option10": "10", "answer": "2"},
        Row("q", "2", wrong_answers=("1", "10")),
    ),
    "choices by text": (
        {"question": "q", "choices": ["x", "y", "z"], "answer": "y"},
        Row("q", "y", wrong_answers=("x", "z")),
    ),
    "choices by place": (
        {"question": "q", "choices": ["x", "y", "z"], "answer": 2},
        Row("q", "z", wrong_answers=("x", "y")),
    ),
    "choices by letter": (
        {"question": "q", "choices": ["x", "y", "z"], "answer": "B"},
        Row("q", "y", wrong_answers=("x", "z")),
    ),
    # choice0.. are numbered from 0, so "1" is the second although another choice reads "1"
    "numbered choices": (
        {"question": "q", "choice0": "1", "choice1": "2", "answer": "1"},
        Row("q", "2", wrong_answers=("1",)),
    ),
    "choices and wrong answers": (
        {"question": "q", "choices": ["x"], "answer": "long", "wrong_answers": ["w"]},
        Row("q", "long", wrong_answers=("w",)),
    ),
    "completion": ({"prompt": "Once ", "completion": "upon"}, Row("Once ", "upon", kind="completion")),
    "prompt that looks like a list": (
        {"prompt": "[INST] Hi", "completion": "[1]"},
        Row("[INST] Hi", "[1]", kind="completion"),
    ),
    "chat prompt": (
        {"prompt": [{"role": "system", "content": "Be brief"}, USER], "completion": [ASSISTANT]},
        Row("Hi", "Hello", kind="chat", history=(("system", "Be brief"),)),
    ),
    "chat prompt, text completion": (
        {"prompt": [USER], "completion": "Hello"},
        Row("Hi", "Hello", kind="chat"),
    ),
    "alpaca": ({"instruction": "Add", "input": "1 2", "output": "3"}, Row("Add\n\n1 2", "3")),
    "alpaca without input": (
        {"instruction": "Add", "input": "", "output": "3", "text": "all"},
        Row("Add", "3"),
    ),
    "messages": (
        {
            "messages": [
                USER,
                ASSISTANT,
                {"role": "user", "content": "Who?"},
                {"role": "assistant", "content": "I"},
            ]
        },
        Row("Who?", "I", kind="chat", history=(("user", "Hi"), ("assistant", "Hello"))),
    ),
    "messages beside a prompt": (
        {"prompt": "Hi", "messages": [USER, ASSISTANT]},
        Row("Hi", "Hello", kind="chat"),
    ),
    "empty system turn": (
        {"messages": [{"role": "system", "content": ""}, USER, ASSISTANT]},
        Row("Hi", "Hello", kind="chat"),
    ),
    "conversations": (
        {
            "conversations": [
                {"from": "system", "value": "s", "role": None},
                {"from": "human", "value": "Hi"},
                {"from": "gpt", "value": "Hello"},
            ]
        },
        Row("Hi", "Hello", kind="chat", history=(("system", "s"),)),
    ),
    "messages as JSON text": (
        {"messages": '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]'},
        Row("Hi", "Hello", kind="chat"),
    ),
    "text": ({"text": "All of it.", "url": "u"}, Row("", "All of it.", kind="document")),
    "document": ({"Document": "All of it."}, Row("", "All of it.", kind="document")),
    "content": ({"content": "All of it.", "text": None}, Row("", "All of it.", kind="document")),
    "white space is kept": ({"question": " q\n", "answer": " a "}, Row(" q\n", " a ")),
    "group of a question": ({"question": "q", "answer": "a", "Group": " code "}, Row("q", "a", group="code")),
    "group of a completion": (
        {"prompt": "p", "completion": "c", "group": "code"},
        Row("p", "c", kind="completion", group="code"),
    ),
    "group of an instruction": ({"instruction": "i", "output": "o", "group": "x"}, Row("i", "o", group="x")),
    "group of a chat": (
        {"messages": [USER, ASSISTANT], "group": "small talk"},
        Row("Hi", "Hello", kind="chat", group="small talk"),
    ),
    "group of a document": ({"text": "All.", "group": "books"}, Row("", "All.", kind="document", group="books")),
    "group by number": ({"question": "q", "answer": "a", "group": 3}, Row("q", "a", group="3")),
    "empty groups": ({"question": "q", "answer": "a", "group": " "}, Row("q", "a")),
    "null as group": ({"question": "q", "answer": "a", "group": None}, Row("q", "a")),
}


@pytest.mark.parametrize("case", GOOD)
def test_schemas(case: str) -> None:
    record, row = GOOD[case]
    assert one(record) == row


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "empty answer": ({"question": "q", "answer": ""}, "answer is empty, expected text"),
    "null answer": ({"question": "q", "answer": None}, "answer is null, expected text"),
    "number": ({"question": "q", "answer": 42}, "answer is the number 42, expected text"),
    "list": ({"question": "q", "answer": ["a"]}, r"answer is a list \['a'\], expected text"),
    "half a surrogate": ({"question": "q", "answer": "a\ud83d"}, r"half of a surrogate pair \(\\ud83d\)"),
    "wrong answer": (
        {"question": "q", "answer": "a", "perturbed_answer": ["x", 3]},
        "item 2 is the number 3",
    ),
    "python list": ({"question": "q", "answer": "a", "perturbed_answer": "['x']"}, "expected a list as JSON"),
    "no such choice": (
        {"question": "q", "answer": "w", "option1": "x", "option2": "y"},
        "not exactly one of the ch",
    ),
    "place too high": (
        {"question": "q", "answer": 3, "choices": ["x", "y"]},
        "not exactly one of the choices",
    ),
    "two choices": (
        {"question": "q", "answer": "1", "choices": ["1", "2"]},
        "not exactly one of the choices",
    ),
    "empty choice answer": ({"question": "q", "answer": "", "choices": ["1", "2"]}, "answer is empty"),
    "empty text": ({"text": " \n"}, r"text is empty"),
    "last turn": (
        {"messages": [USER]},
        "messages ends in user, expected a user turn and then the assistant's",
    ),
    "no user": ({"messages": [ASSISTANT]}, "messages ends in assistant, expected a user turn"),
    "no turns": ({"messages": []}, "messages ends in no turns"),
    "no list": ({"messages": "Hi"}, r"messages is the value 'Hi', expected a list of \{role, content\}"),
    "turn": ({"messages": ["Hi", ASSISTANT]}, r"turn 1 is the value 'Hi', expected \{role, content\}"),
    "role": (
        {"messages": [{"role": "tool", "content": "x"}, ASSISTANT]},
        "turn 1 has as role the value 'tool'",
    ),
    "parts": ({"messages": [{"role": "user", "content": [1]}, ASSISTANT]}, r"turn 1 content is a list \[1\]"),
    "list for text": ({"prompt": "p", "completion": [ASSISTANT]}, "completion is a list"),
    "group": ({"question": "q", "answer": "a", "group": ["x"]}, r"group is a list \['x'\], expected text"),
    "what is the text": (
        {"question": "q", "text": "t"},
        "'text' could be a document, but what is 'question' then",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows(case: str) -> None:
    record, message = BAD[case]
    with pytest.raises(RequestError, match=rf"rows\[0\]: .*{message}"):
        one(record)


def test_all_problems_of_a_row() -> None:
    with pytest.raises(RequestError, match=r"(?s)question is empty.*answer is the number 1"):
        one({"question": "", "answer": 1})


def test_wrong_columns_say_what_there_is_and_how_to_map() -> None:
    with pytest.raises(RequestError) as caught:
        load_rows([{"q": "a", "reply": "b"}] * 30)
    message = str(caught.value)
    assert "30 of 30 rows" in message
    assert "rows[0]: columns found: q, reply; expected question + answer" in message
    assert "--column question=NAME --column answer=NAME" in message
    assert message.count("columns found") == 1
    assert "the same in 29 more rows, last rows[29]" in message


def test_half_recognised_columns_ask_for_the_other_half() -> None:
    with pytest.raises(
        RequestError, match=r"Map them with --column answer=NAME \(in Python columns=\{'answer': NAME\}\)"
    ):
        one({"question": "q", "reply": "a"})


def test_only_the_first_twenty_problems_are_listed() -> None:
    with pytest.raises(RequestError) as caught:
        load_rows([{"question": "q", "answer": ""}] * 23 + [{"question": "q", "answer": "a"}])
    message = str(caught.value)
    assert "23 of 24 rows" in message
    assert "rows[19]:" in message and "rows[20]:" not in message
    assert message.endswith(".. and 3 more problems.")


MAPPED: list[tuple[dict[str, Any], dict[str, str], Row]] = [
    ({"q": "x", "reply": "y"}, {"question": "q", "answer": "reply"}, Row("x", "y")),
    ({"q": "x", "answer": "y"}, {"question": "q"}, Row("x", "y")),
    ({"question": "x", "answer": "y", "gold": "z"}, {"answer": "gold"}, Row("x", "z")),
    ({"question": "x", "answer": "y", "body": "z"}, {"text": "body"}, Row("", "z", kind="document")),
    ({"a": "x", "b": "y"}, {"prompt": "a", "completion": "b"}, Row("x", "y", kind="completion")),
    ({"talk": [USER, ASSISTANT]}, {"messages": "talk"}, Row("Hi", "Hello", kind="chat")),
    (
        {"question": "x", "answer": "y", "other": ["z"], "again": "w", "said": "v"},
        {"wrong_answers": "other", "paraphrased_question": "again", "paraphrased_answer": "said"},
        Row("x", "y", paraphrased_prompt="w", paraphrased_answer="v", wrong_answers=("z",)),
    ),
    ({"question": "x", "answer": "y", "skill": "code"}, {"group": "skill"}, Row("x", "y", group="code")),
    ({"body": "x", "skill": "code"}, {"text": "body", "group": "skill"}, Row("", "x", "document", group="code")),
    ({"question": "x", "answer": "y", "group": "own", "skill": "s"}, {"group": "skill"}, Row("x", "y", group="s")),
]


@pytest.mark.parametrize(("record", "columns", "row"), MAPPED)
def test_mapping(record: dict[str, Any], columns: dict[str, str], row: Row) -> None:
    assert one(record, columns) == row


def test_mapping_holds_where_its_columns_are() -> None:
    rows = load_rows([{"q": "x", "r": "y"}, {"question": "u", "answer": "v"}], columns={"question": "q", "answer": "r"})
    assert rows == (Row("x", "y"), Row("u", "v"))


BAD_MAPPINGS: list[tuple[dict[str, str], str]] = [
    ({"qestion": "q"}, r"no role 'qestion'. Did you mean 'question'"),
    ({"question": ""}, "role 'question' is mapped to ''"),
    ({"question": "q", "text": "t"}, "question and text belong to different kinds"),
    ({"question": "q", "answer": "b"}, r"no column 'b' \(mapped as answer\); columns found: q, reply"),
    ({"question": "q"}, "columns found: q, reply; .*--column answer=NAME"),
    ({"question": "x", "answer": "y"}, r"mapped columns \(answer=y, question=x\) are not among them"),
]


@pytest.mark.parametrize(("columns", "message"), BAD_MAPPINGS)
def test_bad_mappings(columns: dict[str, str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        one({"q": "x", "reply": "y"}, columns)


def test_a_mapped_column_that_no_row_has() -> None:
    with pytest.raises(RequestError, match="no row has the mapped column of text=boddy"):
        one({"question": "q", "answer": "a", "body": "b"}, {"text": "boddy"})


def test_a_mapped_group_does_not_make_a_text_beside_a_question_a_document() -> None:
    with pytest.raises(RequestError, match="'Text' could be a document, but what is 'question' then"):
        one({"question": "q", "Text": "t", "skill": "s"}, {"group": "skill"})


def test_a_mapped_value_is_named_by_role_and_column() -> None:
    with pytest.raises(RequestError, match=r"answer \(column 'reply'\) is empty"):
        one({"question": "x", "reply": ""}, {"answer": "reply"})
