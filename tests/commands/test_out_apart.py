"""Protects what is read from being written over: no output folder is an input or holds one."""

from __future__ import annotations

from pathlib import Path

import pytest

from expunge.commands.apart import check_apart
from expunge.errors import OutputError


@pytest.mark.parametrize(
    ("out", "given", "why"),
    [
        ("run", "run", "it is --erasure"),
        ("run/../run", "run", "it is --erasure"),
        ("link", "run", "it is --erasure"),
        ("run", "run/erasure", "it holds --erasure"),
        ("run", "run:{}/run", "it is --erasure"),
        ("run", "run/rows.jsonl", "it holds --erasure"),
    ],
)
def test_an_output_folder_is_apart_from_what_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, given: str, why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / "erasure").mkdir(parents=True)
    (tmp_path / "run" / "rows.jsonl").touch()
    (tmp_path / "link").symlink_to("run", target_is_directory=True)
    with pytest.raises(OutputError, match=rf"^{out} cannot be the folder to write to: {why}"):
        check_apart(out, {"--model": "owner/name", "--erasure": given.format(tmp_path)})


def test_what_stands_beside_it_is_no_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "rows.jsonl").touch()
    given = {"--erasure": "run", "--forget": "rows.jsonl", "--model": "world:authors", "--erased": None, "--x": 3}
    check_apart("run-audit", given)  # whose name only begins as the run's
    check_apart("run/audit", given)  # a run may hold its audits
    check_apart(None, {"--erasure": "run"})
    with pytest.raises(OutputError, match=r"it lies in --documents \(run\)"):
        check_apart("run/made", {"--documents": "run"})
    with pytest.raises(OutputError, match=r"it holds --erasure \(run\); it holds --forget"):
        check_apart(tmp_path, given)
