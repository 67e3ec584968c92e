"""Who changed what, when and why: lines that are only ever added, each with the hash of the one before it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from expunge.errors import ErasureError
from expunge.files import writing

ACTIONS = ("add", "disable", "enable", "lift")


@dataclass(frozen=True)
class Entry:
    """One change of one guard.

    ``time`` is UTC in ISO format, ``sha256`` the digest of the guard's files, ``previous`` that of the line before.
    """

    time: str
    who: str
    action: str
    guard: str
    why: str
    subjects: tuple[str, ...]
    sha256: str
    previous: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "subjects": list(self.subjects)}


class AuditTrail:
    """The lines of a file. ``root`` is the file whose hash the first line has: what the trail is about."""

    def __init__(self, path: Path, root: Path) -> None:
        self.path, self.root = path, root

    @property
    def head(self) -> str:
        """The hash that the next line will have: kept elsewhere, it shows whether lines were cut off at the end."""
        lines = self._lines()
        return digest(lines[-1]) if lines else self._first()

    @property
    def empty(self) -> bool:
        """Whether there is no line, or no file."""
        return not self._lines()

    def has(self, head: str) -> bool:
        """Whether ``head``, noted of this trail before, is that of one of its lines or of what it is about."""
        return head in (self._first(), *map(digest, self._lines()))

    def state(self) -> tuple[int, int] | None:
        """The file's size and time, which differ after every change; None where there is no file."""
        try:
            facts = self.path.stat()
        except FileNotFoundError:
            return None
        return facts.st_size, facts.st_mtime_ns

    def read(self) -> list[Entry]:
        """All entries.

        Raises:
            ErasureError: the trail is broken.
        """
        entries, problems = self.check()
        if problems:
            raise ErasureError(
                f"the audit trail {self.path} is broken, so that it no longer says which guards are in force: "
                f"{'; '.join(problems)}. Put back a copy of the store from before."
            )
        return entries

    def check(self) -> tuple[list[Entry], list[str]]:
        """The entries that can be read, and where the trail is broken: lines that are none, or do not follow."""
        entries: list[Entry] = []
        problems: list[str] = []
        previous, lines = self._first(), self._lines()
        if previous and not lines:
            gone = "empty" if self.path.is_file() else "gone"
            problems.append(f"it is {gone} (if nothing was ever added to this folder, delete the folder)")
        for number, line in enumerate(lines, 1):
            try:
                entry = _entry(line)
            except (ValueError, TypeError) as error:
                last = "; if a process was killed while it wrote it, delete it" if number == len(lines) else ""
                problems.append(f"line {number} cannot be read ({error}){last}")
                previous = digest(line)
                continue
            if entry.previous != previous:
                before = f"line {number - 1}" if number > 1 else self.root.name
                problems.append(f"line {number} does not follow {before}: one was changed, taken out or put in")
            previous = digest(line)
            entries.append(entry)
        return entries, problems

    def append(self, *, who: str, action: str, guard: str, why: str, subjects: Sequence[str], sha256: str) -> Entry:
        """Add a line; the caller holds the store's lock. It is there whole, or not at all."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        entry = Entry(now, who, action, guard, why, tuple(subjects), sha256, self.head)
        line = json.dumps(entry.as_dict(), ensure_ascii=False).encode() + b"\n"
        with writing(self.path), self.path.open("ab+") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            try:
                file.write(line if file.read() in (b"", b"\n") else b"\n" + line)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), size)
                raise
        return entry

    def _lines(self) -> list[bytes]:
        found = self.path.read_bytes() if self.path.is_file() else b""
        return found.removesuffix(b"\n").split(b"\n") if found else []

    def _first(self) -> str:
        return digest(self.root.read_bytes()) if self.root.is_file() else ""


def digest(data: bytes) -> str:
    """Hex SHA-256."""
    return hashlib.sha256(data).hexdigest()


def _entry(line: bytes) -> Entry:
    values = json.loads(line)
    names = {field.name for field in fields(Entry)}
    if not isinstance(values, dict) or values.keys() != names:
        raise ValueError(f"it has not the fields {', '.join(sorted(names))}")
    if values["action"] not in ACTIONS:
        raise ValueError(f"it has action {values['action']!r}")
    return Entry(**{**values, "subjects": tuple(values["subjects"])})
