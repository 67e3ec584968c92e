"""Protects the filter of system calls on every processor it is made for, by running its instructions in Python."""

from __future__ import annotations

import errno

import pytest

from expunge.evaluation.confinement import call_filter
from expunge.evaluation.confinement.kernel import Instruction

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# Numbers from the kernel's tables, written down apart from the ones under test.
CALLS = {
    "x86_64": {"read": 0, "write": 1, "mmap": 9, "openat": 257, "unlinkat": 263, "clone": 56, "clone3": 435,
               "execve": 59, "socket": 41, "socketpair": 53, "kill": 62, "prctl": 157, "exit_group": 231},
    "aarch64": {"read": 63, "write": 64, "mmap": 222, "openat": 56, "unlinkat": 35, "clone": 220, "clone3": 435,
                "execve": 221, "socket": 198, "socketpair": 199, "kill": 129, "prctl": 167, "exit_group": 94},
}  # fmt: skip
ALLOWED, KILLED = "allowed", "killed"
OWN = 4321
SIGCHLD, THREAD = 17, 0x3D0F00  # what fork and pthread_create pass to clone


def verdict(program: list[Instruction], architecture: int, number: int, *arguments: int) -> str | int:
    """What the kernel would do: run the program over the call's data."""
    words = {0: number, 4: architecture}
    words |= {16 + 8 * place: value & 0xFFFFFFFF for place, value in enumerate(arguments)}
    at, held = 0, 0
    while True:
        line = program[at]
        at += 1
        if line.code == 0x20:
            held = words[line.k]
        elif line.code == 0x06:
            return {0x7FFF0000: ALLOWED, 0x80000000: KILLED}.get(line.k, line.k & 0xFFFF)
        else:
            holds = {0x15: held == line.k, 0x35: held >= line.k, 0x45: bool(held & line.k)}[line.code]
            at += line.jt if holds else line.jf


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("writing", [True, False])
def test_what_is_let_through(name: str, writing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_filter, "machine", lambda: name)
    program = call_filter.program(OWN, writing=writing)
    assert len(program) < 256 * 4

    def tried(call: str, *arguments: int) -> str | int:
        return verdict(program, ARCHITECTURES[name], CALLS[name][call], *arguments)

    for call in ("read", "write", "mmap", "exit_group"):
        assert tried(call) == ALLOWED
    for call in ("execve", "socket"):
        assert tried(call, 0, 0, 0) == errno.EPERM
    assert tried("clone3") == errno.ENOSYS
    assert tried("clone", SIGCHLD) == errno.EPERM
    assert tried("clone", THREAD) == ALLOWED
    assert tried("kill", OWN, 9) == ALLOWED
    for other in (1, 0, -1, OWN + 1):
        assert tried("kill", other, 9) == errno.EPERM
    assert tried("socketpair", 1) == ALLOWED  # AF_UNIX, connected to itself
    assert tried("socketpair", 2) == errno.EPERM
    assert tried("prctl", 1, 0) == errno.EPERM  # PR_SET_PDEATHSIG
    assert tried("prctl", 15, 0) == ALLOWED
    assert tried("openat", 0, 0, 0) == ALLOWED
    for flags in (1, 2, 0o100, 0o1000, 0o101):  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC
        assert tried("openat", 0, 0, flags) == (ALLOWED if writing else errno.EPERM)
    assert tried("unlinkat", 0) == (ALLOWED if writing else errno.EPERM)
    assert verdict(program, 0x40000003, 0) == KILLED  # the 32-bit calls of the same machine have other numbers
    if name == "x86_64":
        assert verdict(program, ARCHITECTURES[name], 0x40000000 + 1) == errno.ENOSYS


def test_an_unknown_processor_has_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_filter, "machine", lambda: "riscv64")
    with pytest.raises(OSError, match="no filter of system calls is made for riscv64"):
        call_filter.program(OWN, writing=True)
