"""The last resort: an audit hook in the interpreter. It stops plain code, not code that means to get round it."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_EVENTS = {
    "network": ("socket.",),
    "processes": ("os.fork", "os.posix_spawn", "os.exec", "os.system", "os.spawn", "subprocess.", "pty."),
    "signals": ("os.kill", "os.killpg", "signal.pthread_kill"),
    "writes": (
        "os.remove",
        "os.rename",
        "os.rmdir",
        "os.mkdir",
        "os.link",
        "os.symlink",
        "os.truncate",
        "os.chmod",
        "os.chown",
        "os.utime",
        "os.setxattr",
        "os.removexattr",
        "shutil.",
        "tempfile.",
        "sqlite3.",
    ),
    "reads": (),
}
_REMOVED = {"network": ("socket", "_socket", "ssl", "_ssl"), "processes": ("subprocess", "_posixsubprocess", "pty")}
_ALWAYS = ("ctypes.", "mmap.__new__")


def install(purposes: Collection[str], readable: Sequence[str]) -> None:
    """Refuse what ``purposes`` name, with a `PermissionError`, for the rest of this process's life.

    Files outside ``readable`` cannot be opened where ``reads`` is among them, none for writing where ``writes`` is;
    modules that are of no other use are taken away.
    """
    events = tuple(event for purpose in purposes for event in _EVENTS[purpose]) + _ALWAYS
    reads, writes = "reads" in purposes, "writes" in purposes
    folders = tuple(readable)
    fspath, fsdecode, realpath = os.fspath, os.fsdecode, os.path.realpath

    def inside(path: str) -> bool:
        found = realpath(path)
        return any(found == folder or found.startswith(f"{folder}/") for folder in folders)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(events):
            raise PermissionError(f"{event} is not allowed here")
        if event == "open":
            path, mode, flags = (*arguments, None, None)[:3]
            wanted = (isinstance(flags, int) and flags & _WRITING) or (
                isinstance(mode, str) and set(mode) & set("wax+")
            )
            if writes and wanted and not isinstance(path, int):
                raise PermissionError("writing files is not allowed here")
            if reads and not isinstance(path, int) and path is not None and not inside(fsdecode(fspath(path))):
                raise PermissionError("reading this file is not allowed here")
        elif reads and event in ("os.listdir", "os.scandir") and not inside(fsdecode(arguments[0] or ".")):
            raise PermissionError("reading this folder is not allowed here")

    modules: dict[str, Any] = sys.modules
    for purpose in purposes:
        for name in _REMOVED.get(purpose, ()):
            modules[name] = None
    for name in ("ctypes", "_ctypes"):
        modules[name] = None
    sys.addaudithook(hook)
