"""What tests of the sandbox share: limits that are soon reached, layers to leave out, running one program."""

from __future__ import annotations

from expunge.evaluation.sandbox import Limits, Outcome, Program, Sandbox

SHORT = Limits(seconds=5.0, cpu_seconds=5, memory_bytes=128 * 2**20, file_bytes=2**20, disk_bytes=2**21)
# Layers that are left out, from everything there is to the last resort.
MODES = {
    "everything": (),
    "no own root": ("own root",),
    "no namespaces": ("namespaces",),
    "audit hook alone": ("namespaces", "landlock", "seccomp", "own user"),
}


def run(code: str, *tests: str, without: tuple[str, ...] = (), limits: Limits = SHORT) -> Outcome:
    return Sandbox(limits, without=without).run(Program(code, tests))
