"""Protects earlier runs: bad input never costs one, and a recorded one can be repeated from anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conftest import Tiny


def test_input_that_cannot_be_fitted_leaves_the_earlier_run_alone(tiny: Tiny, expunge_cli: Any, tmp_path: Path) -> None:
    given = ["forget", "-m", tiny.target, "-f", tiny.forget, "-o", tmp_path / "run", "training.max_new_tokens=4"]
    quick = ["training.epochs=1", "training.learning_rate=1e-3"]
    assert expunge_cli(*given, "-r", tiny.retain, *quick).code == 0
    before = {path.name for path in (tmp_path / "run").iterdir()}
    for wrong, message in (
        ([], "reads retain rows"),
        (["-r", tiny.retain, "training.layers=['*.nothing.*']"], "matches no parameter"),
        (["-r", tiny.retain, "training.optimizer=adam"], "no such optimizer"),
        (["-r", tiny.retain, "training.max_length=4"], "cannot be encoded"),
    ):
        refused = expunge_cli(*given, *wrong, "--overwrite")
        assert refused.code == 2
        assert message in " ".join(refused.err.split())
        assert {path.name for path in (tmp_path / "run").iterdir()} == before


def test_a_recorded_run_can_be_repeated_from_anywhere(
    tiny: Tiny, expunge_cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.forget.parent)
    given = ["forget", "-m", tiny.target.name, "-f", tiny.forget.name, "-r", tiny.retain.name]
    settings = ["training.epochs=1", "training.learning_rate=1e-3", "training.max_new_tokens=4"]
    assert expunge_cli(*given, "-o", tmp_path / "one", *settings).code == 0
    monkeypatch.chdir(tmp_path)
    assert expunge_cli("run", tmp_path / "one" / "run.yaml", "-o", tmp_path / "two").code == 0
    assert expunge_cli("export", "two", "--to", "cleaned").code == 0
    assert (tmp_path / "one" / "run.yaml").read_text() == (tmp_path / "two" / "run.yaml").read_text()
