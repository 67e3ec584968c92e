"""Protects the request: its sets, overlaps between them, the calibration split and the digest."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from expunge.errors import RequestError
from expunge.requests import Request, Row
from expunge.requests.request import rows_sha256


def rows(*names: str) -> list[dict[str, str]]:
    return [{"question": f"What is {name}?", "answer": f"It is {name}."} for name in names]


def write(path: Path, records: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_load_every_set(tmp_path: Path) -> None:
    request = Request.load(
        write(tmp_path / "forget.jsonl", rows("a", "b")),
        retain=str(write(tmp_path / "retain.jsonl", rows("c"))),
        neighbours=rows("d"),
        holdout=[Row("e", "f")],
        calibration=rows("g"),
        subjects=["Ada Brandt "],
        aliases="Ada",
    )
    assert list(request.sets) == ["forget", "retain", "neighbours", "holdout", "calibration"]
    assert [len(part) for part in request.sets.values()] == [2, 1, 1, 1, 1]
    assert request.forget[1] == Row("What is b?", "It is b.")
    assert request.forget[1].source == "forget.jsonl:2"
    assert (request.subjects, request.aliases) == (("Ada Brandt",), ("Ada",))


def test_sets_leave_empty_ones_out() -> None:
    assert list(Request.load(rows("a"), holdout=rows("b"), retain=[]).sets) == ["forget", "holdout"]


def test_a_request_needs_forget_rows() -> None:
    with pytest.raises(RequestError, match="no forget rows"):
        Request.load([])
    with pytest.raises(RequestError, match="no forget rows"):
        Request(forget=())


def test_names_must_say_something() -> None:
    with pytest.raises(RequestError, match="subjects: found ' ', expected a name"):
        Request.load(rows("a"), subjects=["Ada", " "])
    with pytest.raises(RequestError, match="aliases: found 3"):
        Request(forget=(Row("q", "a"),), aliases=(3,))  # type: ignore[arg-type]


def test_lists_become_tuples() -> None:
    request = Request(forget=[Row("q", "a")], subjects=["Ada"])  # type: ignore[arg-type]
    assert request.forget == (Row("q", "a"),) and request.subjects == ("Ada",)


def test_problems_of_all_sets_come_together(tmp_path: Path) -> None:
    forget = write(tmp_path / "forget.jsonl", [*rows("a"), {"question": "q", "answer": ""}])
    with pytest.raises(RequestError) as caught:
        Request.load(forget, retain=tmp_path / "forgot.jsonl", holdout=[{"x": "y"}])
    message = str(caught.value)
    assert "forget.jsonl:2: answer is empty" in message
    assert "forgot.jsonl: there is no such file" in message
    assert "holdout[0]: columns found: x" in message


def test_one_mapping_for_sets_with_different_columns() -> None:
    forget = [{"q": "x", "a": "y"}]
    request = Request.load(forget, retain=rows("b"), columns={"question": "q", "answer": "a"})
    assert request.forget == (Row("x", "y"),) and len(request.retain) == 1
    with pytest.raises(RequestError, match="no row has the mapped column of wrong_answers=wrongs"):
        Request.load(rows("a"), retain=rows("b"), columns={"wrong_answers": "wrongs"})


def test_overlap_lists_both_places(tmp_path: Path) -> None:
    forget = write(tmp_path / "forget.jsonl", rows("a", "b", "c"))
    # The same row but for letter case and white space; another answer makes another row.
    retain = write(
        tmp_path / "retain.jsonl",
        [
            *rows("x"),
            {"question": "what  is B?", "answer": "It is b. "},
            {"question": "What is c?", "answer": "No."},
        ],
    )
    with pytest.raises(RequestError) as caught:
        Request.load(forget, retain=retain, holdout=rows("a"))
    message = str(caught.value)
    assert message.startswith("rows that must be forgotten are also in a set that must not hold them (2)")
    assert "forget forget.jsonl:2 = retain retain.jsonl:2: What is b?" in message
    assert "forget forget.jsonl:1 = holdout holdout[0]" in message
    assert message.endswith(
        "or allow it (--allow-overlap where the command has it, else the setting request.allow_overlap=true; in Python "
        "allow_overlap=True)."
    )
    allowed = Request.load(forget, retain=retain, holdout=rows("a"), allow_overlap=True)
    assert len(allowed.retain) == 3
    with pytest.raises(RequestError) as caught:
        allowed.check_overlap("holdout")
    assert "(1)" in str(caught.value) and "holdout[0]" in str(caught.value) and "retain" not in str(caught.value)
    assert str(caught.value).endswith("Take them out of one side.")
    allowed.check_overlap("neighbours")


@pytest.mark.parametrize("name", ["retain", "neighbours", "holdout", "calibration"])
def test_overlap_is_looked_for_in_every_set(name: str) -> None:
    with pytest.raises(RequestError, match=rf"forget forget\[0\] = {name} {name}\[0\]"):
        Request.load(rows("a"), **{name: rows("a")})  # type: ignore[arg-type]


def test_overlap_lists_the_first_twenty() -> None:
    names = [str(n) for n in range(25)]
    with pytest.raises(RequestError, match=r"\(25\)(?s:.)*retain\[19\](?s:.)*and 5 more"):
        Request.load(rows(*names), retain=rows(*names))


def test_duplicates_within_a_set_are_kept() -> None:
    assert len(Request.load(rows("a", "a"), retain=rows("b", "b")).forget) == 2


def test_calibration_split() -> None:
    names = [f"n{n}" for n in range(50)]
    request = Request.load(rows("a"), retain=rows(*names, "n0"))
    split = request.with_calibration(fraction=0.2, seed=3)
    # 50 different rows, a fifth of them: 10; the duplicate of n0 goes where n0 goes.
    keys = {row.key for row in split.calibration}
    assert len(keys) == 10
    assert not keys & {row.key for row in split.retain}
    assert len(split.retain) + len(split.calibration) == 51
    assert split == request.with_calibration(0.2, 3)
    assert split.calibration != request.with_calibration(0.2, 4).calibration
    turned = Request.load(rows("a"), retain=rows("n0", *names)[::-1]).with_calibration(0.2, 3)
    assert {row.key for row in turned.calibration} == keys
    # Order and forget rows stay.
    assert [row for row in request.retain if row.key in keys] == list(split.calibration)
    assert split.forget == request.forget


def test_each_group_gives_its_share_of_calibration_rows() -> None:
    # A fifth of 10 and of 40 rows; of a single row none.
    kept = [Row(f"p{i}", "a", group="many" if i < 40 else "few") for i in range(50)] + [Row("x", "a", group="one")]
    split = Request(forget=(Row("f", "a"),), retain=kept).with_calibration(0.2)
    assert Counter(row.group for row in split.calibration) == {"many": 8, "few": 2}


def test_given_calibration_rows_stay() -> None:
    request = Request.load(rows("a"), retain=rows("b", "c"), calibration=rows("d"))
    assert request.with_calibration() is request


def test_calibration_leaves_something_to_retain() -> None:
    split = Request.load(rows("a"), retain=rows("b", "c")).with_calibration(0.99)
    assert (len(split.retain), len(split.calibration)) == (1, 1)
    with pytest.raises(RequestError, match="no group has 2 different ones"):
        Request.load(rows("a"), retain=rows("b", "b")).with_calibration()
    with pytest.raises(RequestError, match=r"fraction is 1.5, expected a number between 0 and 1"):
        Request.load(rows("a"), retain=rows("b", "c")).with_calibration(1.5)


def test_digest_is_of_the_content(tmp_path: Path) -> None:
    request = Request.load(write(tmp_path / "one.jsonl", rows("a", "b")), retain=rows("c"))
    again = Request.load(write(tmp_path / "two.jsonl", rows("a", "b")), retain=rows("c"))
    digest = request.digest()
    assert digest == again.digest()
    assert {name: entry["rows"] for name, entry in digest.items()} == {"forget": 2, "retain": 1}
    changed: list[list[dict[str, Any]]] = [
        rows("b", "a"),
        rows("a"),
        [rows("a")[0], {**rows("b")[0], "perturbed_answer": ["x"]}],
        [rows("a")[0], {"prompt": "What is b?", "completion": "It is b."}],
    ]
    hashes = {Request.load(records).digest()["forget"]["sha256"] for records in changed}
    assert len(hashes | {digest["forget"]["sha256"]}) == 5


def test_digest_never_changes_between_releases() -> None:
    # printf '%s' TEXT | sha256sum, with TEXT the two lines in one:
    # [{"answer":"é","history":[],"kind":"question","paraphrased_answer":null,
    # "paraphrased_prompt":null,"prompt":"q","wrong_answers":[]}]
    digest = Request(forget=(Row("q", "é"),)).digest()
    assert digest == {
        "forget": {"rows": 1, "sha256": "d2fd525d2c05fadcfca7a4f0c2ed4c12b9e0fec368aaa941e9f96a2cfc5bbc8b"}
    }


def test_digest_with_a_group_differs() -> None:
    # as above, with "group":"g", after the answer
    plain, grouped = Row("q", "é"), Row("q", "é", group="g")
    assert rows_sha256([grouped]) == "c231d5bb80c90d7fe550f88b74cf682abfd65fa0c5b996dc317fab5343c14832"
    assert rows_sha256([plain]) != rows_sha256([grouped]) != rows_sha256([Row("q", "é", group="h")])
    assert grouped.key == plain.key


def test_groups_do_not_part_rows_of_one_text() -> None:
    with pytest.raises(RequestError, match="also in a set"):
        Request.load([{**rows("a")[0], "group": "x"}], retain=[{**rows("a")[0], "group": "y"}])


def test_four_thousand_rows_load_in_well_under_a_second(tmp_path: Path) -> None:
    # As many rows as forget10 + retain90 of TOFU, about as long. Near 0.2 s; a busy machine gets some room.
    def records(start: int, stop: int) -> list[dict[str, str]]:
        return [{"question": f"Question {n}? " * 6, "answer": f"Answer {n}. " * 15} for n in range(start, stop)]

    forget, retain = (
        write(tmp_path / "f.jsonl", records(0, 400)),
        write(tmp_path / "r.jsonl", records(400, 4000)),
    )
    start = time.perf_counter()
    request = Request.load(forget, retain=retain)
    assert time.perf_counter() - start < 1.0
    assert len(request.retain) == 3600


def test_import_is_light() -> None:
    heavy = "{'torch', 'transformers', 'datasets', 'pandas', 'pyarrow', 'numpy'}"
    code = f"import sys, expunge.requests; print(sorted({heavy} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
