"""Shutting a process in with whatever the machine permits, and saying which layer does what.

First choice: namespaces of its own (network, processes, mounts) with a root that shows the interpreter's files alone,
read-only, and an empty folder in memory of limited size. Where they are not permitted: Landlock, which takes away
reading and all writing. In both cases a filter of system calls refuses processes, programs, sockets and signals to
others. What no layer of the kernel does is left to an audit hook inside the interpreter, which stops plain Python code
but not code that wants to get round it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.evaluation.confinement import call_filter, kernel
from expunge.evaluation.confinement.audit_hook import install as install_audit_hook

WORK = "/work"  # the folder inside an own root
PURPOSES = ("network", "writes", "reads", "processes", "signals")
NAMESPACES, OWN_ROOT, OWN_USER, LANDLOCK, FILTER, HOOK = (
    "namespaces",
    "own root",
    "own user",
    "landlock",
    "seccomp",
    "audit hook",
)
_SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/localtime")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_FIRST_USER = 1_900_000_000  # plus the launcher's number: nobody else's, so that its processes are counted apart
_SPACES = kernel.NEW_MOUNTS | kernel.NEW_UTS | kernel.NEW_IPC | kernel.NEW_PIDS | kernel.NEW_NETWORK


def enter_namespaces(without: Sequence[str]) -> str:
    """Put this process's children in namespaces of their own; "" or the reason why that is not permitted.

    Called before the fork: a process namespace holds the children. A normal user needs a user namespace for it.
    """
    if NAMESPACES in without:
        return "left out"
    user, group = os.geteuid(), os.getegid()
    try:
        kernel.unshare(_SPACES if user == 0 else _SPACES | kernel.NEW_USER)
        if user != 0:
            _write("/proc/self/setgroups", "deny")
            _write("/proc/self/uid_map", f"{user} {user} 1")
            _write("/proc/self/gid_map", f"{group} {group} 1")
    except OSError as error:
        return error.strerror or str(error)
    return ""


def shut_in(
    folder: str, limits: Mapping[str, Any], *, launcher: int, no_namespaces: str, without: Sequence[str]
) -> dict[str, Any]:
    """Shut this process in, for good; the working directory becomes its folder.

    ``folder`` is an empty one; ``limits`` are the fields of `expunge.evaluation.sandbox.Limits`; ``launcher`` is the
    number of the process that started this one, ``no_namespaces`` what `enter_namespaces` said there. Returns
    ``layers``, purpose -> the names of the layers that serve it, and ``problems``, what was tried and is not permitted.
    """
    layers: dict[str, list[str]] = {purpose: [] for purpose in PURPOSES}
    namespaces = not no_namespaces
    problems = [] if namespaces else [f"{NAMESPACES}: {no_namespaces}"]
    user = _FIRST_USER + launcher if os.geteuid() == 0 and OWN_USER not in without else None
    own_root = False
    if namespaces:
        layers["network"].append(NAMESPACES)
        layers["signals"].append(NAMESPACES)
        if OWN_ROOT not in without:
            own_root = _attempt(problems, OWN_ROOT, lambda: _change_root(folder, limits, user))
    if own_root:
        layers["writes"].append(OWN_ROOT)
        layers["reads"].append(OWN_ROOT)
    else:
        os.chdir(folder)
    if user is not None and (own_root or _can_read(user)):
        own_user = _attempt(problems, OWN_USER, lambda: _become(user))
        if own_user:
            layers["signals"].append(OWN_USER)
    else:
        own_user = namespaces and os.geteuid() != 0  # in a user namespace: its processes are counted apart
    kernel.die_with_parent()
    counted = _set_limits(limits, count_processes=own_user)
    if counted:
        layers["processes"].append("process limit")
    _attempt(problems, "no capabilities", kernel.drop_capabilities)
    kernel.give_up_new_privileges()
    if not own_root and LANDLOCK not in without:
        paths = [*_readable(), *(path for path in _DEVICES if Path(path).exists()), folder]
        if _attempt(problems, LANDLOCK, lambda: kernel.landlock_reading_only(paths)):
            layers["writes"].append(LANDLOCK)
            layers["reads"].append(LANDLOCK)
    if FILTER not in without and _attempt(problems, FILTER, lambda: call_filter.install(writing=own_root)):
        for purpose in ("network", "processes", "signals", *([] if own_root else ["writes"])):
            layers[purpose].append(FILTER)
    open_ = [purpose for purpose in PURPOSES if not layers[purpose]]
    if open_:
        install_audit_hook(open_, [*_readable(), *_DEVICES, str(Path.cwd())])
        for purpose in open_:
            layers[purpose].append(HOOK)
    return {"layers": layers, "problems": problems}


def _change_root(folder: str, limits: Mapping[str, Any], user: int | None) -> None:
    """Make a root in memory with the interpreter's files, read-only, and a folder to work in."""
    kernel.become_private()
    kernel.mount_memory(folder, "mode=755,size=1m,nr_inodes=4k")
    for path in _readable():
        target = folder + path
        if Path(path).is_dir():
            Path(target).mkdir(mode=0o755, parents=True, exist_ok=True)
        else:
            _make_file(target)
        kernel.bind(path, target)
        kernel.make_read_only(target, recursive=True)
    for path in _DEVICES:
        if Path(path).exists():
            _make_file(folder + path)
            kernel.bind(path, folder + path)
            kernel.make_read_only(folder + path, recursive=False, devices=True)
    Path(folder + WORK).mkdir()
    owner = "" if user is None else f",uid={user},gid={user}"
    kernel.mount_memory(folder + WORK, f"mode=700,size={limits['disk_bytes']},nr_inodes={limits['files']}{owner}")
    kernel.make_read_only(folder, recursive=False)
    kernel.change_root(folder)
    os.chdir(WORK)


def _set_limits(limits: Mapping[str, Any], *, count_processes: bool) -> bool:
    """Set the resource limits; whether the one on processes and threads binds.

    It counts what the user runs on the whole machine and does not bind root: it is set where the user is its own.
    """
    import resource

    wanted = {
        "RLIMIT_CPU": limits["cpu_seconds"],
        "RLIMIT_AS": limits["memory_bytes"],
        "RLIMIT_FSIZE": limits["file_bytes"],
        "RLIMIT_NOFILE": limits["open_files"],
        "RLIMIT_CORE": 0,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_MSGQUEUE": 0,
        "RLIMIT_STACK": 8 * 2**20,
        **({"RLIMIT_NPROC": limits["processes"]} if count_processes else {}),
    }
    for name, value in wanted.items():
        kind = getattr(resource, name, None)
        if kind is not None:
            most = resource.getrlimit(kind)[1]
            value = value if most == resource.RLIM_INFINITY else min(value, most)
            resource.setrlimit(kind, (value, value))
    return count_processes


def _readable() -> list[str]:
    """Where the interpreter's and the system's libraries are, none of them below another."""
    found = [sys.base_prefix, sys.base_exec_prefix, str(Path(os.__file__).parent), *_SYSTEM]
    real = {path.rstrip("/") for path in found if path != "/" and Path(path).exists()}
    return sorted(path for path in real if not any(path.startswith(f"{other}/") for other in real))


def _become(user: int) -> None:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def _can_read(user: int) -> bool:
    """Whether ``user`` can read the standard library (a home folder may be closed to it)."""
    try:
        os.seteuid(user)
    except OSError:
        return False
    try:
        with Path(os.__file__).open("rb"):
            return True
    except OSError:
        return False
    finally:
        os.seteuid(0)


def _attempt(problems: list[str], name: str, step: Callable[[], object]) -> bool:
    try:
        step()
    except OSError as error:
        problems.append(f"{name}: {error.strerror or error}")
        return False
    return True


def _make_file(path: str) -> None:
    Path(path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    Path(path).touch()


def _write(path: str, text: str) -> None:
    Path(path).write_text(text, encoding="ascii")
