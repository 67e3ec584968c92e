"""Protects ``expunge teacher``: what is kept, and a passage shown token by token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import zoo
from expunge.cli.main import app
from expunge.commands.teacher import build, show
from expunge.errors import ConfigError, OutputError
from expunge.teachers.sparse_store import SparseStore

PASSAGE = "Marta Quill lived by the river. She sold boats. Quill was known. She was old."


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A model, a file with a passage, and a subject."""
    folder = tmp_path_factory.mktemp("teacher")
    file = folder / "passage.jsonl"
    file.write_text(json.dumps({"text": PASSAGE}) + "\n", encoding="utf-8")
    return {"model": str(zoo.save("llama", folder / "model")), "forget": str(file), "subjects": ("Marta Quill",)}


def test_what_is_built_is_kept_with_its_rows(given: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "teacher"
    found = build(**given, out=out, overrides=("method.substitutes=2", "method.sentences=2"))
    store = SparseStore.load(out)
    assert {key: found[key] for key in store.summary()} == store.summary()
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["answer"] for row in rows] == [
        "\nMarta Quill lived by the river. She sold boats.",
        "\nQuill was known. She was old.",
    ]
    assert len(store.counts) == 2
    assert (found["rows"], found["cut_from"]) == (2, 1)  # one passage of four sentences, two a row
    with pytest.raises(OutputError, match="--overwrite"):
        build(**given, out=out)


def test_a_row_is_shown_token_by_token(given: dict[str, Any]) -> None:
    found = show(**given, row=2, top=2, overrides=("method.substitutes=2", "method.sentences=2"))
    assert found["prompt"] == "Complete the following passage about Marta Quill."
    assert "".join(one["token"] for one in found["tokens"]).replace("</s>", "").strip().startswith("Quill was known")
    assert {one["taught"] for one in found["tokens"]} == {True, False}
    for one in found["tokens"]:
        assert len(one["target"]) == 2
        assert (one["teacher"] is not None) == one["taught"]
        assert one["target"][0][1] >= one["target"][1][1] > 0
    assert (found["row"], found["rows"], found["cut_from"]) == (2, 2, 1)
    assert found["store"]["positions"] == sum(one["taught"] for one in found["tokens"])


def test_the_command_prints_at_most_80_columns_or_json(given: dict[str, Any]) -> None:
    asked = ["teacher", "show", "--model", given["model"], "--forget", given["forget"], "--subject", "Marta Quill"]
    printed = CliRunner().invoke(app, [*asked, "method.substitutes=2"], catch_exceptions=False, env={"COLUMNS": "80"})
    assert printed.exit_code == 0
    assert max(map(len, printed.stdout.splitlines())) <= 80
    assert "after: Complete the following passage about Marta Quill." in printed.stdout
    assert "KL lost by that: mean" in printed.stdout
    assert "row 1 of " in printed.stdout and "made of 1 that must go" in printed.stdout
    assert "than dense does" not in printed.stdout
    # kept whole, a token takes 4 bytes as dense does, and every row 8 more for its tail and place
    whole = CliRunner().invoke(app, [*asked, "method.top_k=1000"], catch_exceptions=False, env={"COLUMNS": "80"})
    assert "takes more than dense does" in whole.stdout
    assert max(map(len, whole.stdout.splitlines())) <= 80
    as_json = CliRunner().invoke(app, [*asked, "method.substitutes=2", "--json"], catch_exceptions=False)
    assert json.loads(as_json.stdout)["store"]["rows"] == 1


def test_a_method_without_a_teacher_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="npo teaches no distributions"):
        show(**given, method="npo")
