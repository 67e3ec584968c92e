"""Protects reading: every format gives the same rows and their places, and says what is wrong with a file."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expunge.errors import RequestError
from expunge.requests import Row, load_rows
from expunge.requests.files import read

ROWS = [
    {"question": "Who wrote Ulmen?", "answer": 'Ada "A" Brandt,\nin 1901'},
    {"question": "Where?\u2028In which town?", "answer": "Łódź — 東京 🙂"},
    {"question": "When?", "answer": "tab\there"},
]
EXPECTED = [(row["question"], row["answer"]) for row in ROWS]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_table(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def write_columns(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps({name: [row[name] for row in rows] for name in rows[0]}), encoding="utf-8")


def write_saved(path: Path, rows: list[dict[str, Any]]) -> None:
    import datasets

    datasets.Dataset.from_list(rows).save_to_disk(path)


def write_folder(path: Path, rows: list[dict[str, Any]]) -> None:
    path.mkdir()
    write_jsonl(path / "a.jsonl", rows[:1])
    write_table(path / "b.csv", rows[1:])
    (path / "README.md").write_text("About these rows.")
    (path / ".gitattributes").write_text("*.csv text")


# In the CSV record 1 spans lines 2 and 3, because its answer holds a line break.
FORMATS: dict[str, tuple[str, Callable[[Path, list[dict[str, Any]]], object], list[str]]] = {
    "jsonl": ("f.jsonl", write_jsonl, ["f.jsonl:1", "f.jsonl:2", "f.jsonl:3"]),
    "json": (
        "f.json",
        lambda path, rows: path.write_text(json.dumps(rows, indent=1)),
        # "[" is line 1, each object takes four lines: {, question, answer, }
        ["f.json:2", "f.json:6", "f.json:10"],
    ),
    "json data": (
        "f.json",
        lambda path, rows: path.write_text(json.dumps({"version": 1, "data": rows})),
        ["f.json:row 1", "f.json:row 2", "f.json:row 3"],
    ),
    "json columns": ("f.json", write_columns, ["f.json:row 1", "f.json:row 2", "f.json:row 3"]),
    "json groups": (
        "f.json",
        lambda path, rows: path.write_text(json.dumps({"Ada": rows[:2], "Bo": rows[2:]})),
        ["f.json:row 1", "f.json:row 2", "f.json:row 3"],
    ),
    "csv": ("f.csv", write_table, ["f.csv:2", "f.csv:4", "f.csv:5"]),
    "tsv": ("f.tsv", lambda path, rows: write_table(path, rows, "\t"), ["f.tsv:2", "f.tsv:4", "f.tsv:5"]),
    "parquet": ("f.parquet", write_parquet, [f"f.parquet:row {n}" for n in (1, 2, 3)]),
    "saved dataset": ("saved", write_saved, [f"saved:row {n}" for n in (1, 2, 3)]),
    "folder": ("folder", write_folder, ["folder/a.jsonl:1", "folder/b.csv:2", "folder/b.csv:3"]),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_rows_and_their_places(tmp_path: Path, kind: str) -> None:
    name, write, places = FORMATS[kind]
    write(tmp_path / name, ROWS)
    rows = load_rows(tmp_path / name)
    assert [(row.prompt, row.answer) for row in rows] == EXPECTED
    assert [row.source for row in rows] == places
    assert rows == load_rows(str(tmp_path / name))


def test_in_memory_rows_and_dicts() -> None:
    kept = Row("q", "a", source="elsewhere:3")
    rows = load_rows([ROWS[0], Row("p", "b"), kept], name="forget")
    assert [row.source for row in rows] == ["forget[0]", "forget[1]", "elsewhere:3"]
    with pytest.raises(RequestError, match=r"forget\[1\]: found str, expected a dict or a Row"):
        load_rows([ROWS[0], "text"], name="forget")  # type: ignore[list-item]
    with pytest.raises(RequestError, match=r"got one dict, expected a list of dicts"):
        load_rows(ROWS[0])  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="got int, expected a path"):
        load_rows(7)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=r"forget\[0\]: answer is empty"):
        load_rows([Row("q", " ")], name="forget")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), min_size=1, max_size=5), st.booleans())
def test_jsonl_keeps_any_text(tmp_path: Path, pairs: list[tuple[str, str]], escaped: bool) -> None:
    # A leading letter keeps the texts from being blank, which is an error of its own.
    rows = [{"question": "q" + question, "answer": "a\u2028\u0085" + answer} for question, answer in pairs]
    path = tmp_path / "any.jsonl"
    text = "".join(json.dumps(row, ensure_ascii=escaped) + "\n" for row in rows)
    path.write_bytes(text.encode("utf-8"))
    assert [(row.prompt, row.answer) for row in load_rows(path)] == [tuple(row.values()) for row in rows]


def test_jsonl_byte_order_mark_blank_lines_and_crlf(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    lines = ["", json.dumps(ROWS[0]), "  ", json.dumps(ROWS[2]), ""]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert [row.source for row in load_rows(path)] == ["f.jsonl:2", "f.jsonl:4"]


def test_csv_byte_order_mark_and_long_fields(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    long = "x" * 200_000  # the csv module's own limit is 131072
    path.write_bytes(b"\xef\xbb\xbf" + f"question,answer\n\nq,{long}\n".encode())
    before = csv.field_size_limit()
    (row,) = load_rows(path)
    assert (row.answer, row.source) == (long, "f.csv:3")
    assert csv.field_size_limit() == before


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("\ufeffPart one.\n\nPart two.\n", encoding="utf-8")
    (tmp_path / "note.md").write_text("# Title\n")
    rows = load_rows(tmp_path)
    assert [(row.answer, row.kind, row.prompt) for row in rows] == [
        ("Part one.\n\nPart two.", "document", ""),
        ("# Title", "document", ""),
    ]
    assert rows[0].source == f"{tmp_path.name}/book.txt"


def test_saved_dataset_splits(tmp_path: Path) -> None:
    import datasets

    splits = {"train": datasets.Dataset.from_list(ROWS[:1]), "test": datasets.Dataset.from_list(ROWS[1:])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "d")
    assert [row.source for row in load_rows(tmp_path / "d")] == ["d:train:row 1"]
    assert len(load_rows(f"{tmp_path / 'd'}:test")) == 2
    with pytest.raises(RequestError, match=r"no split 'dev'. Splits found: test, train"):
        load_rows(f"{tmp_path / 'd'}:dev")


@pytest.mark.parametrize(
    ("given_id", "config", "split"),
    [
        ("o/n", None, "train"),
        ("o/n.v2:forget10", "forget10", "train"),
        ("o/n:c:test", "c", "test"),
        ("o/n::dev", None, "dev"),
    ],
)
def test_hub_ids(monkeypatch: pytest.MonkeyPatch, given_id: str, config: str | None, split: str) -> None:
    import datasets

    asked: list[tuple[Any, ...]] = []

    def load_dataset(name: str, config: str | None, split: str) -> datasets.Dataset:
        asked.append((name, config, split))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    rows = load_rows(given_id)
    assert asked == [(given_id.partition(":")[0], config, split)]
    assert rows[1].source == f"{given_id}:row 2"


def test_hub_failure_names_what_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load_dataset(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach the hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(RequestError, match=r"dataset 'o/n', configuration c, split 'train'.*Couldn't reach the hub"):
        load_rows("o/n:c")


@pytest.mark.parametrize("name", ["retian.jsonl", "retain.json", "retain"])
def test_a_missing_file_suggests_near_names(tmp_path: Path, name: str) -> None:
    write_jsonl(tmp_path / "retain.jsonl", ROWS)
    with pytest.raises(RequestError, match=r"no such file or folder.*Did you mean .*retain\.jsonl\?"):
        read(str(tmp_path / name))


def test_a_missing_relative_file_is_not_taken_for_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("data/forget.jsonl", "../nothing-here", "no-such-thing"):
        with pytest.raises(RequestError, match="no such file or folder"):
            read(name)


@pytest.mark.parametrize("name", ["f.jsonl", "f.json", "f.csv", "f.tsv", "f.parquet", "f.txt"])
@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file(tmp_path: Path, name: str, content: str) -> None:
    if name == "f.parquet" and content:
        pytest.skip("white space is no Parquet file")
    (tmp_path / name).write_text(content)
    with pytest.raises(RequestError, match=rf"{name}: the file is empty"):
        read(tmp_path / name)


def test_files_without_rows(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("question,answer\n")
    (tmp_path / "f.json").write_text("[ ]")
    (tmp_path / "folder").mkdir()
    for name in ("f.csv", "f.json", "folder"):
        with pytest.raises(RequestError, match="Expected at least one row"):
            read(tmp_path / name)


# name, content, what the error must say
BROKEN = {
    "unknown type": ("f.xlsx", b"PK", r"files of type '.xlsx' are not read. Expected .jsonl"),
    "packed": ("f.jsonl.gz", b"\x1f\x8b", r"Unpack it first"),
    "utf-16": ("f.jsonl", "{}".encode("utf-16"), "UTF-16 text, expected UTF-8"),
    "latin-1 line": (
        "f.jsonl",
        b'{"text": "a"}\n{"text": "\xe9"}',
        r"f.jsonl:2: found byte 0xe9, expected UTF-8",
    ),
    "latin-1 file": ("f.csv", b"text\na\n\xe9\n", r"f.csv:3: found byte 0xe9, expected UTF-8"),
    "list on a line": ("f.jsonl", b"[1]\n", r"f.jsonl:1: found a list, expected one JSON object"),
    "number on a line": ("f.jsonl", b"7\n", r"f.jsonl:1: found a number"),
    "deep": ("f.jsonl", b"[" * 200_000, r"f.jsonl:1: broken JSON"),
    "json cut off": ("f.json", b'[{"text": "a"},\n{"text": ', r"f.json:2: broken JSON \(Expecting value"),
    "json no comma": ("f.json", b'[{"text": "a"}\n{"text": "b"}]', r"f.json:2: broken JSON \(Expecting ','"),
    "json comma at end": ("f.json", b'[{"text": "a"},\n]', r"f.json:2: broken JSON"),
    "json open": ("f.json", b"[", r"f.json:1: broken JSON"),
    "json rest": ("f.json", b'[{"text": "a"}]\n]', r"f.json:2: found '\]' after the end of the list"),
    "json texts": ("f.json", b'["a"]', r"f.json:1: found a text, expected a list of JSON objects"),
    "json object cut": ("f.json", b'{"data":\n[', r"f.json:2: broken JSON"),
    "json is jsonl": (
        "f.json",
        b'{"text": "a"}\n{"text": "b"}',
        r"f.json:2: found a second JSON value.*name it .jsonl",
    ),
    "json value": ("f.json", b'{"text": "a"}', r"found one JSON value \(text\), expected a list of objects"),
    "json lengths": ("f.json", b'{"a": ["x"], "b": []}', r"different lengths \(a: 1, b: 0\)"),
    "csv field count": ("f.csv", b"question,answer\nq,a\nq,a,b\n", r"f.csv:3: found 3 fields, expected 2"),
    "csv open quote": ("f.csv", b'text\na\n"b\nc\n', r"f.csv:3: broken quotes"),
    "csv header twice": ("f.csv", b"text,text\na,b\n", "names a column twice: text"),
    "parquet": ("f.parquet", b"PAR1 no", "is not a readable Parquet file"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_say_where_and_what(tmp_path: Path, case: str) -> None:
    name, content, message = BROKEN[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError, match=message):
        load_rows(tmp_path / name)


def test_broken_json_and_bad_rows_are_reported_together(tmp_path: Path) -> None:
    lines = [json.dumps({"question": f"q{n}", "answer": "a"}) for n in range(1, 13)]
    lines[6] = '{"question": "q7", "answer": '  # line 7
    lines[8] = json.dumps({"question": "q9", "answer": "  "})
    lines[10] = json.dumps({"question": 11, "answer": "a"})
    path = tmp_path / "forget.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(RequestError) as caught:
        load_rows(path)
    message = str(caught.value)
    assert "3 of 12 rows cannot be used" in message
    assert "forget.jsonl:7: broken JSON (Expecting value, column 30): found" in message
    assert "forget.jsonl:9: answer is empty, expected text" in message
    assert "forget.jsonl:11: question is the number 11, expected text" in message


def test_folder_with_other_files(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "scan.pdf").write_bytes(b"%PDF")
    with pytest.raises(RequestError, match=r"cannot be read as rows: scan\.pdf"):
        read(tmp_path)


def test_a_text_in_place_of_a_path() -> None:
    with pytest.raises(RequestError, match=r"cannot be read|no such file"):
        read("Tell me all about Ada Brandt. " * 100)
    with pytest.raises(RequestError, match="the path is empty"):
        read(" ")


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f.jsonl"
    write_jsonl(path, ROWS)

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(RequestError, match=r"f.jsonl: cannot be read \(Permission denied\)"):
        read(path)
