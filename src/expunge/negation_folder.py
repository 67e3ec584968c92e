"""The folder of a negated checkpoint: where it may go, and where it grows until it is whole.

While files are written they lie in ``DIR.partial/model`` with ``DIR.partial/progress.json`` beside them, which says of
which models they were made and which are finished. The last step moves them to ``DIR``.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from expunge.commands.export import foreign
from expunge.errors import ExpungeError, OutputError
from expunge.files import sha256, write_json, writing

log = logging.getLogger("expunge")

RECORD = "negation.json"
"""What was subtracted from what, beside the checkpoint."""

_PROGRESS, _LOCK = "progress.json", "lock"
_LISTED = 5


def check_place(to: Path, own: Iterable[Path], *, overwrite: bool) -> None:
    """Refuse a place where something would be lost that is no checkpoint; ``own`` are the models' own folders."""
    for folder in sorted(own):
        if to == folder:
            raise OutputError(f"{to} is the folder of one of the models. Choose another one.")
        if to.is_relative_to(folder) or folder.is_relative_to(to):
            where = "lies in" if to.is_relative_to(folder) else "holds"
            raise OutputError(f"{to} {where} the folder of one of the models ({folder}). Choose another one.")
    if to == Path.cwd():
        raise OutputError(f"{to} is the current folder, which cannot be replaced. Name a folder in it.")
    if not to.exists() or (to.is_dir() and not any(to.iterdir())):
        return
    if not to.is_dir():
        raise OutputError(f"{to} is a file. Choose a folder.")
    if not (to / "config.json").is_file():
        raise OutputError(
            f"{to} exists and holds no checkpoint (there is no config.json in it), so nothing in it is touched. "
            "Choose another folder."
        )
    known = _recorded(to)
    strangers = [name for name in foreign(to) if not _is_of(known, to, to / name)]
    if strangers:
        more = f" and {len(strangers) - _LISTED} more" if len(strangers) > _LISTED else ""
        raise OutputError(
            f"{to} holds more than a checkpoint ({', '.join(strangers[:_LISTED])}{more}), so nothing in it is touched. "
            "Choose another folder."
        )
    if not overwrite:
        raise OutputError(f"{to} exists. Choose another folder, or pass --overwrite to replace that checkpoint.")


def _recorded(folder: Path) -> set[str]:
    """The files that an earlier negation says it wrote there."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return {RECORD, *record["copied"], *record["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _is_of(known: set[str], folder: Path, entry: Path) -> bool:
    """Whether a file, or all that is in a folder, is one of the ``known`` names."""
    if entry.is_symlink():
        return False
    if entry.is_dir():
        return all(_is_of(known, folder, inner) for inner in entry.iterdir())
    return entry.relative_to(folder).as_posix() in known


class Staging:
    """``DIR.partial``: opened afresh, or with the files that a killed call for the same ``facts`` had finished.

    When the context ends with an error about the models nothing stays; after an interruption, or where the disk was
    full, the finished files do.
    """

    def __init__(self, to: Path, facts: Mapping[str, Any]) -> None:
        self.to, self.facts = to, dict(facts)
        self.path = to.with_name(to.name + ".partial")
        self.model = self.path / "model"
        self.entries: dict[str, dict[str, Any]] = {}
        """What is recorded of each finished file, by name."""
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> Self:
        found = self._found()
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._hold()
            if found is not None:
                difference = _difference(found["facts"], self.facts)
                if difference is None:
                    self.entries = self._whole(found["files"])
                else:
                    log.warning("%s holds another negation (%s): it is started afresh.", self.path, difference)
            for entry in list(self.model.iterdir()) if self.model.is_dir() else []:
                if entry.is_dir():
                    shutil.rmtree(entry)
                elif entry.name not in self.entries:
                    entry.unlink()
            self.model.mkdir(exist_ok=True)
        self._write()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        keep = kind is not None and (not issubclass(kind, ExpungeError) or issubclass(kind, OutputError))
        if not keep or not self.entries:
            shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()

    @contextmanager
    def part(self, name: str) -> Iterator[Path]:
        """A temporary file that becomes the model's file ``name`` when the block ends well."""
        part = self.model / f".{name}.part"
        try:
            yield part
            with writing(part):
                part.replace(self.model / name)
        finally:
            part.unlink(missing_ok=True)

    def record(self, name: str, entry: dict[str, Any]) -> None:
        """Note that the file ``name`` is finished: ``bytes``, ``sha256`` and whatever is to be known of it."""
        self.entries[name] = entry
        self._write()

    def check_space(self, needed: int) -> None:
        """Refuse to begin where the disk has less than ``needed`` bytes left."""
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise OutputError(
                f"cannot write {self.to}: it needs {needed / 1e9:.1f} GB more and the disk has {free / 1e9:.1f} GB "
                "left. Free some space or choose another folder."
            )

    def finish(self) -> None:
        """Move the model to its place; what was there is replaced only now."""
        with writing(self.to):
            if self.to.exists():
                old = self.to.with_name(f".{self.to.name}.{os.getpid()}.old")
                self.to.replace(old)
                self.model.replace(self.to)
                shutil.rmtree(old)
            else:
                self.model.replace(self.to)

    def _found(self) -> dict[str, Any] | None:
        """The progress of an earlier call, if any; a folder that is none's is refused."""
        if not self.path.exists():
            return None
        progress = self.path / _PROGRESS
        try:
            names = {entry.name for entry in self.path.iterdir()}
            found: dict[str, Any] | None = json.loads(progress.read_text(encoding="utf-8")) if names - {_LOCK} else None
            known = found is None or (names <= {_PROGRESS, _LOCK, "model"} and {"facts", "files"} <= found.keys())
        except (OSError, ValueError, AttributeError):
            known = False
        if not known or self.path.is_symlink():
            raise OutputError(
                f"{self.path} is in the way: {self.to} grows there until it is whole, and it holds something else. "
                "Move it, or choose another folder."
            )
        return found

    def _whole(self, files: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """The recorded files that still are what was written."""
        whole = {}
        for name, entry in files.items():
            file = self.model / name
            if file.is_file() and file.stat().st_size == entry["bytes"] and sha256(file) == entry["sha256"]:
                whole[name] = entry
        return whole

    def _write(self) -> None:
        write_json(self.path / _PROGRESS, {"schema": 1, "facts": self.facts, "files": self.entries})

    def _hold(self) -> None:
        """Two processes never write one checkpoint."""
        if fcntl is None:
            return
        self._lock = (self.path / _LOCK).open("wb")
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                return  # a file system without locks
            self._lock.close()
            raise OutputError(
                f"{self.to} is being written by another process. Wait for it to end, or choose another folder."
            ) from error


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """What differs between the models and settings of two calls, in words; None for the same."""
    if before.get("scale") != now["scale"]:
        return f"its scale was {before.get('scale')}, now {now['scale']}"
    if before.get("target") != now["target"]:
        return "its target was another, or changed since"
    if before.get("harmful") != now["harmful"]:
        return "its harmful models were others, or changed since"
    if dict(before) != dict(now):
        return f"it was begun by expunge {before.get('expunge')}"
    return None
