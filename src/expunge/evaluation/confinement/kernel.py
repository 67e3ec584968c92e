"""The Linux system calls that shut a process in and that Python has no function for, without privileges where possible.

Every function raises `OSError` with the kernel's reason where the machine does not offer or permit the call.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# unshare(2), sched.h
NEW_MOUNTS, NEW_UTS, NEW_IPC, NEW_USER, NEW_PIDS, NEW_NETWORK = (
    0x00020000,
    0x04000000,
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
# mount(2) and mount_setattr(2)
_NOSUID, _NODEV, _BIND, _RECURSIVE, _PRIVATE = 0x2, 0x4, 0x1000, 0x4000, 0x40000
_DETACH = 2
_AT_RECURSIVE, _AT_FDCWD = 0x8000, -100
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 0x1, 0x2, 0x4
# prctl(2)
_SET_PDEATHSIG, _SET_SECCOMP, _CAPBSET_DROP, _SUBREAPER, _NO_NEW_PRIVS = 1, 22, 24, 36, 38
# system calls without a C function; from 424 on the numbers are the same everywhere
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_CAPSET = {"x86_64": 126, "aarch64": 91}
_MOUNT_SETATTR, _LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 442, 444, 445, 446
# landlock: rights by the version that brought them
_FS_RIGHTS = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 5: 0xFFFF}
_READ_FILE, _READ_DIR, _EXECUTE = 0x4, 0x8, 0x1
_TCP, _SCOPES = 0x3, 0x3


class _MountAttributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns")]


class _Ruleset(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("files", "network", "scoped")]


class _BeneathPath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = [("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32)]


class Instruction(ctypes.Structure):
    """One instruction of a socket filter."""

    _fields_ = [("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32)]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(Instruction))]


_libc: Any = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None  # elsewhere nothing here is called
if _libc is not None:
    _libc.syscall.restype = ctypes.c_long


def machine() -> str:
    """The processor's name as the tables here have it."""
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())


def unshare(flags: int) -> None:
    """Leave the namespaces that ``flags`` name for new ones."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def become_private() -> None:
    """Let no mount made from here on be seen outside this mount namespace."""
    _check(_libc.mount(None, b"/", None, ctypes.c_ulong(_RECURSIVE | _PRIVATE), None), "mount --make-rprivate")


def mount_memory(folder: str, options: str) -> None:
    """An empty file system in memory at ``folder``."""
    flags = ctypes.c_ulong(_NOSUID | _NODEV)
    _check(_libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", flags, options.encode()), f"mount tmpfs at {folder}")


def bind(source: str, target: str) -> None:
    """Show ``source`` and all below it at ``target`` too."""
    flags = ctypes.c_ulong(_BIND | _RECURSIVE)
    _check(_libc.mount(os.fsencode(source), os.fsencode(target), None, flags, None), f"bind {source}")


def make_read_only(folder: str, *, recursive: bool, devices: bool = False) -> None:
    """No writing, no set-user-id programs and (unless ``devices``) no devices at ``folder`` (Linux 5.12)."""
    attributes = _MountAttributes(_ATTR_RDONLY | _ATTR_NOSUID | (0 if devices else _ATTR_NODEV), 0, 0, 0)
    _call(
        _MOUNT_SETATTR,
        ctypes.c_int(_AT_FDCWD),
        ctypes.c_char_p(os.fsencode(folder)),
        ctypes.c_uint(_AT_RECURSIVE if recursive else 0),
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
        what=f"mount_setattr {folder}",
    )


def change_root(folder: str) -> None:
    """Make ``folder``, a mount, the root of everything; what was there before is out of reach."""
    os.chdir(folder)
    _call(_number(_PIVOT_ROOT), ctypes.c_char_p(b"."), ctypes.c_char_p(b"."), what="pivot_root")
    _check(_libc.umount2(b".", ctypes.c_int(_DETACH)), "umount of the old root")
    os.chdir("/")


def drop_capabilities() -> None:
    """Give up every capability for good."""
    for capability in range(64):
        if _libc.prctl(_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) < 0:
            break  # past the last one, or never had the right to
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    nothing = (ctypes.c_uint32 * 6)()
    _call(_number(_CAPSET), ctypes.byref(header), ctypes.byref(nothing), what="capset")


def die_with_parent() -> None:
    """Get SIGKILL when the process that started this one ends."""
    _prctl(_SET_PDEATHSIG, 9)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends."""
    _prctl(_SUBREAPER, 1)


def give_up_new_privileges() -> None:
    """No program started from here on gains rights; without it no filter can be set by a normal user."""
    _prctl(_NO_NEW_PRIVS, 1)


def set_filter(instructions: Iterable[Instruction]) -> None:
    """Put all further system calls of this process through a filter; it cannot be taken off."""
    listed = list(instructions)
    array = (Instruction * len(listed))(*listed)
    program = _Program(len(listed), array)
    _check(_libc.prctl(_SET_SECCOMP, ctypes.c_ulong(2), ctypes.byref(program), 0, 0), "prctl(PR_SET_SECCOMP)")


def landlock_reading_only(paths: Iterable[str]) -> None:
    """Let this process read ``paths`` and what is below them, and neither read nor write anything else.

    From version 4 on it cannot use TCP either, from version 6 on neither signal nor reach sockets outside.
    """
    version = _call(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint(1), what="landlock")
    rights = next(bits for since, bits in sorted(_FS_RIGHTS.items(), reverse=True) if version >= since)
    rules = _Ruleset(rights, _TCP if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    size = ctypes.c_size_t(24 if version >= 6 else 16 if version >= 4 else 8)
    ruleset = _call(_LANDLOCK_CREATE, ctypes.byref(rules), size, ctypes.c_uint(0), what="landlock_create_ruleset")
    try:
        for path in paths:
            folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                reading = _READ_FILE | _EXECUTE | (_READ_DIR if Path(path).is_dir() else 0)
                rule = _BeneathPath(reading, folder)
                _call(
                    _LANDLOCK_ADD,
                    ctypes.c_int(ruleset),
                    ctypes.c_int(1),
                    ctypes.byref(rule),
                    ctypes.c_uint(0),
                    what=f"landlock_add_rule {path}",
                )
            finally:
                os.close(folder)
        _call(_LANDLOCK_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint(0), what="landlock_restrict_self")
    finally:
        os.close(ruleset)


def _prctl(option: int, value: int) -> None:
    _check(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), f"prctl {option}")


def _call(number: int, *arguments: Any, what: str) -> int:
    return _check(int(_libc.syscall(ctypes.c_long(number), *arguments)), what)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _number(numbers: dict[str, int]) -> int:
    if machine() not in numbers:
        raise OSError(f"no system call numbers are known for {platform.machine()}")
    return numbers[machine()]
