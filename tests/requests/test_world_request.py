"""Protects a world's request with sets of one's own: they replace the world's, and none is passed over silently."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from expunge.config.run_file import RequestSpec
from expunge.errors import RequestError
from expunge.parts import load_request
from expunge.worlds.interface import get_world


def test_named_sets_replace_those_of_the_world(tmp_path: Path) -> None:
    rows = [{"question": f"How far is town {i}?", "answer": f"{i} miles"} for i in range(3)]
    file = tmp_path / "calibration.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    own, found = get_world("authors").request(), load_request(RequestSpec(world="authors", calibration=str(file)))
    assert [row.prompt for row in found.calibration] == [row["question"] for row in rows]
    assert (found.forget, found.retain, found.holdout) == (own.forget, own.retain, own.holdout)
    assert load_request(RequestSpec(world="authors")) == own


def test_a_set_that_holds_forget_rows_is_refused(tmp_path: Path) -> None:
    row = get_world("authors").request().forget[0]
    file = tmp_path / "retain.jsonl"
    file.write_text(json.dumps({"question": row.prompt, "answer": row.answer}))
    with pytest.raises(RequestError, match="rows that must be forgotten are also in a set"):
        load_request(RequestSpec(world="authors", retain=str(file)))
