"""Writing so that a killed process leaves the old file, the new file or none, never half of one."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from expunge.errors import OutputError

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another folder",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "permission denied; choose a folder you may write to",
    errno.EPERM: "permission denied; choose a folder you may write to",
    errno.ENOTDIR: "a part of the path is a file; choose another folder",
    errno.EFBIG: "the file would be larger than the system allows (ulimit -f); raise the limit",
    errno.EEXIST: "a file of that name is in the way; choose another folder",
}
_TOLD = re.compile(r"\(os error (\d+)\)")
_FULL = ("No space left on device", "inline_container.cc", "PytorchStreamWriter failed")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the operating system says about writing ``path`` into an :class:`OutputError` that says what to do."""
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
        raise OutputError(f"cannot write {path}: {reason}.") from error
    except Exception as error:
        # safetensors and torch report what the system said as errors of their own
        told = _TOLD.search(str(error))
        if told and int(told[1]) in _REASONS:
            raise OutputError(f"cannot write {path}: {_REASONS[int(told[1])]}.") from error
        if any(sign in str(error) for sign in _FULL):
            raise OutputError(f"cannot write {path}: {_REASONS[errno.ENOSPC]}.") from error
        raise


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in one move."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` by ``value`` as JSON; NaN and infinity are refused rather than written as invalid JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``path`` when the block ends well, and is removed when it does not.

    What was at ``path`` before is replaced only then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            if path.exists():
                old = path.with_name(f".{path.name}.{os.getpid()}.old")
                path.replace(old)
                temporary.replace(path)
                if old.is_dir():
                    shutil.rmtree(old)
                else:
                    old.unlink()
            else:
                temporary.replace(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def for_json(value: Any) -> Any:
    """For JSON: tuples as lists, numbers of NumPy as Python's, and None for what is not finite."""
    if isinstance(value, Mapping):
        return {str(key): for_json(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [for_json(part) for part in value]
    if hasattr(value, "tolist"):
        return for_json(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
