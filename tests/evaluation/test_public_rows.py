"""Protects loading of public benchmarks: where a split lies, fields out of any format, all bad rows in one error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from expunge.errors import RequestError
from expunge.evaluation.public_rows import Fields, read_as, split_of


def test_lists_and_numbers_come_out_of_any_format(tmp_path: Path) -> None:
    expected = (("a, b", 'c "d"'), 7)
    (tmp_path / "a.jsonl").write_text(json.dumps({"names": expected[0], "number": 7}) + "\n")
    (tmp_path / "b.csv").write_text('names,number\n"[""a, b"", ""c \\""d\\""""]",7\n')
    (tmp_path / "c.csv").write_text('names,number\n"[\'a, b\', \'c ""d""\']",7\n')
    for path in sorted(tmp_path.iterdir()):
        assert read_as(path, lambda row: (row.texts("names"), row.number("number")), "x") == [expected], path.name


def test_all_bad_rows_are_in_one_error(tmp_path: Path) -> None:
    lines = ['{"a": "good"}', '{"a": 3}', "{broken", '{"b": "x"}', '{"a": "  "}', "[1]"]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    with pytest.raises(RequestError) as caught:
        read_as(tmp_path / "rows.jsonl", lambda row: row.text("a"), "x")
    told = str(caught.value).splitlines()
    assert told[0].endswith("rows.jsonl: 5 of 6 rows cannot be used:")
    assert told[1] == "  rows.jsonl:2: a is 3, expected text"
    assert told[2].startswith("  rows.jsonl:3: broken JSON")
    assert told[3] == "  rows.jsonl:4: no a; columns found: b"
    assert told[4] == "  rows.jsonl:5: a is '  ', expected text"
    assert told[5].startswith("  rows.jsonl:6: found a list")


def test_only_the_first_problems_are_listed(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n' * 25)
    with pytest.raises(RequestError, match=r"25 of 25 rows(?s:.*)\.\. and 5 more problems\."):
        read_as(tmp_path / "rows.jsonl", lambda row: row.text("a"), "x")


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"n": "x"}, "n is 'x', expected a whole number from 0"),
        ({"n": True}, "n is True, expected a whole number from 0"),
        ({"n": -1}, "n is -1, expected a whole number from 0"),
        ({}, "n is None, expected a whole number from 0"),
    ],
)
def test_numbers(record: dict[str, object], problem: str) -> None:
    fields = Fields(record, "here")
    assert (fields.number("n"), fields.problems) == (-1, [problem])


@pytest.mark.parametrize(
    "name", ["test.jsonl", "test_first300.csv", "test-00000-of-00001.parquet", "main/test.json", "test/rows_test.csv"]
)
def test_a_split_is_found_by_its_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    (tmp_path / "train.jsonl").touch()
    (tmp_path / "tested.jsonl").touch()
    if name == "test/rows_test.csv":
        with pytest.raises(RequestError, match="has no test file"):
            split_of(tmp_path, "test", config="main", hub="o/n")
    else:
        assert split_of(tmp_path, "test", config="main", hub="o/n") == path


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    assert split_of("owner/name", "dev", config="all", hub="o/n") == "owner/name:all:dev"
    with pytest.raises(RequestError, match=r"nowhere: is no folder and no dataset id\. Pass .* or o/n"):
        split_of(tmp_path / "nowhere", "test", config="main", hub="o/n")
    with pytest.raises(RequestError, match="holds no files of rows"):
        split_of(tmp_path, "test", config="main", hub="o/n")
    (tmp_path / "test1.jsonl").touch()
    (tmp_path / "test2.jsonl").touch()
    with pytest.raises(RequestError, match=r"several files could be the split test: test1.jsonl, test2.jsonl"):
        split_of(tmp_path, "test", config="main", hub="o/n")
