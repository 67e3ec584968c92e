"""Protects every file and folder we write: whole or not at all, and a full or read-only disk is one clear error."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from expunge.errors import OutputError
from expunge.files import new_folder, sha256, write_json, write_text, writing


def test_text_replaces_text(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_text(path, "one\n")
    write_text(path, "zwei ü\n")
    assert path.read_bytes() == "zwei ü\n".encode()
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.ENOSPC, "the disk is full; free some space"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "permission denied; choose a folder you may write to"),
        (errno.EIO, "error"),
    ],
)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_error_while_writing_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, reason: str, call: str
) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OutputError) as caught:
        write_text(path, "new")
    assert f"cannot write {path}" in str(caught.value)
    assert reason in str(caught.value)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_number_that_is_not_json_is_not_written(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": 1\n}\n'


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder"
    with new_folder(path) as temporary:
        (temporary / "a").write_text("1")
        assert not path.exists()
    assert (path / "a").read_text() == "1"
    assert [entry.name for entry in path.parent.iterdir()] == ["folder"]


@pytest.mark.parametrize("there_before", [True, False])
def test_an_exception_leaves_the_old_folder_or_none(tmp_path: Path, there_before: bool) -> None:
    path = tmp_path / "folder"
    if there_before:
        path.mkdir()
        (path / "old").touch()
    with pytest.raises(RuntimeError, match="inside"), new_folder(path) as temporary:
        (temporary / "new").touch()
        raise RuntimeError("inside")
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == (
        ["folder", "folder/old"] if there_before else []
    )


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_was_there_is_replaced_whole(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "folder"
    if kind == "folder":
        path.mkdir()
        (path / "old").touch()
    else:
        path.touch()
    with new_folder(path) as temporary:
        (temporary / "new").touch()
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == ["folder", "folder/new"]


def test_rests_of_a_killed_process_are_not_mixed_in(tmp_path: Path) -> None:
    rest = tmp_path / f".folder.{os.getpid()}.tmp"
    rest.mkdir()
    (rest / "half").touch()
    with new_folder(tmp_path / "folder") as temporary:
        (temporary / "new").touch()
    assert [entry.name for entry in (tmp_path / "folder").iterdir()] == ["new"]


def test_a_file_on_the_path_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"a part of the path is a file|a file of that name is in the way"):
        write_text(tmp_path / "file" / "a.txt", "text")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="permission denied"):
        write_text(tmp_path / "a.txt", "text")
    with pytest.raises(OutputError, match="permission denied"), new_folder(tmp_path / "folder"):
        pass
    tmp_path.chmod(0o700)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_really_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "with_name", lambda *_: Path("/dev/full"))
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    with pytest.raises(OutputError, match="the disk is full"):
        write_text(tmp_path / "a.txt", "text")


LIMITED = """
import resource, signal, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from expunge.errors import OutputError
from expunge.files import new_folder, writing

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
big = torch.zeros(100_000)
for save in (lambda p: save_file({"a": big}, p), lambda p: torch.save(big, p), lambda p: p.write_bytes(b"x" * 90_000)):
    try:
        with new_folder(Path(sys.argv[1]) / "folder") as temporary:
            save(temporary / "big")
    except OutputError as error:
        print(error)
print(sorted(path.name for path in Path(sys.argv[1]).iterdir()))
"""


def test_files_that_cannot_grow_are_one_kind_of_error(tmp_path: Path) -> None:
    # Three writers (safetensors, torch, Python) report a file that cannot grow in three ways.
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert lines[-1] == "[]", done.stderr
    assert len(lines) == 4
    assert all(line.startswith(f"cannot write {tmp_path / 'folder'}: ") for line in lines[:3])


@pytest.mark.parametrize(
    "text",
    [
        "Error while serializing: I/O error: No space left on device (os error 28)",
        "[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0",
        "PytorchStreamWriter failed writing file data/0: file write failed",
    ],
)
def test_a_full_disk_in_a_librarys_words(tmp_path: Path, text: str) -> None:
    with pytest.raises(OutputError, match="the disk is full"), writing(tmp_path):
        raise RuntimeError(text)


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"^another$"), writing(tmp_path):
        raise RuntimeError("another")


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
