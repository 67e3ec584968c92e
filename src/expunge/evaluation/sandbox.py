"""Running code that nobody has read: a separate process with limits on time, memory, files and processes, no network.

Each program runs in a fresh interpreter that is shut in before the code begins
(:mod:`expunge.evaluation.confinement`): an empty working directory of limited size that is gone afterwards, an empty
environment, none of the caller's open files, resource limits that cannot be raised again, and layers of the kernel
against the network, writing, reading, processes and signals. `Outcome.layers` says which layer served each purpose.

What holds where the kernel permits namespaces (as root, or as a normal user with user namespaces) and the filter of
system calls: the code sees the interpreter's and the system's libraries, read-only, and its own folder; it cannot make
a process, start a program, open a socket, or signal or see another process. Where namespaces are not permitted,
Landlock and the filter do the same, except that the code cannot write even in its own folder. Where neither is, an
audit hook inside the interpreter is all there is: that stops plain Python code and is *no guarantee*; it is logged as a
warning, and ``strict`` makes it an error. The same holds for single purposes: without Landlock, for instance, nothing
else keeps the code of a normal user from reading what that user can read, the environment of its parents included.

What is not a guarantee anywhere: bugs of the kernel, since it is shared; side channels; and the honesty of a pass. A
pass is a message with a random token that only the code around the tests sends, so that printing, exiting early with
status 0, closing or flooding the pipes, or replacing built-in functions does not make one. But tests and code share an
interpreter: code that searches its own interpreter's frames or memory for the token, or returns objects that claim to
equal anything, can pass dishonestly. Models that try to solve a task do not do that; do not use a score as a proof
against an adversary.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from expunge.errors import ConfigError, ExpungeError

log = logging.getLogger("expunge")

Verdict = Literal["passed", "failed", "error", "timed out", "out of memory", "killed"]
VERDICTS: tuple[str, ...] = get_args(Verdict)

_GRACE = 30.0  # seconds over the limit until the launcher itself is ended
_MOST_WORKERS = 8
_START = (
    "import sys; sys.path.insert(0, {root!r}); "
    "from expunge.evaluation.confinement.launcher import main; del sys.path[0]; main()"
)
_FLAGS = ("-s", "-P", "-S", "-B", "-X", "utf8")  # isolated; -I would also pass over the one variable that is set
_warned: set[str] = set()


class SandboxError(ExpungeError):
    """Code could not be run at all: no sandbox on this system, or one that is weaker than asked for."""


@dataclass(frozen=True)
class Limits:
    """What one program may use.

    ``seconds`` of wall-clock time (without the start of its interpreter) and ``cpu_seconds`` of processor time;
    ``memory_bytes`` of address space; ``file_bytes`` a file, ``disk_bytes`` and ``files`` in all; ``open_files``;
    ``processes``: threads, since it can have no process but its own; ``output_bytes`` on both streams together.
    """

    seconds: float = 10.0
    cpu_seconds: int = 10
    memory_bytes: int = 512 * 2**20
    file_bytes: int = 16 * 2**20
    disk_bytes: int = 32 * 2**20
    files: int = 256
    open_files: int = 64
    processes: int = 16
    output_bytes: int = 2**20

    def __post_init__(self) -> None:
        least = {"seconds": 0.1, "memory_bytes": 64 * 2**20, "open_files": 8}
        wrong = []
        for one in fields(self):
            value, bound = getattr(self, one.name), least.get(one.name, 1)
            if isinstance(value, bool) or not isinstance(value, int | float) or not bound <= value < 2**62:
                wrong.append(f"{one.name} is {value!r}, expected a number from {bound} on")
            elif one.name != "seconds" and not isinstance(value, int):
                wrong.append(f"{one.name} is {value!r}, expected a whole number")
        if wrong:
            raise ConfigError(f"the sandbox's limits cannot be used: {'; '.join(wrong)}.")


@dataclass(frozen=True)
class Program:
    """``code``, then ``setup`` (what the tests need beside it), then each of ``tests``, run in one namespace: that none
    raises is a pass."""

    code: str
    tests: tuple[str, ...] = ()
    setup: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    ``passed``; ``failed``: an assertion; ``error``: any other exception, or an end before the tests were through;
    ``timed out``; ``out of memory``; ``killed``: ended by a signal, or for too much output. ``detail`` is one line;
    ``stdout`` and ``stderr`` are the last 2,000 bytes of each; ``seconds`` it ran. ``layers`` maps each purpose
    (network, writes, reads, processes, signals) to the layers that served it; ``problems`` are layers this machine
    refused.
    """

    verdict: Verdict
    detail: str = ""
    stdout: str = ""
    stderr: str = ""
    seconds: float = 0.0
    layers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return self.verdict == "passed"

    def described(self) -> dict[str, str]:
        """The verdict, and detail and standard error where there are any: what a sample says of it."""
        told = {"verdict": self.verdict, "detail": self.detail, "stderr": self.stderr}
        return {name: text for name, text in told.items() if text}

    @property
    def weak(self) -> tuple[str, ...]:
        """Purposes that no layer of the kernel served, only the audit hook."""
        return tuple(purpose for purpose, names in self.layers.items() if names == ("audit hook",))


class Sandbox:
    """Runs programs under ``limits``, at most ``workers`` at a time (None: the processors there are, 8 at most).

    ``strict`` refuses to count on a purpose that only the audit hook serves. ``without`` leaves out layers by name
    (namespaces, own root, own user, landlock, seccomp), for tests of those that remain.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        workers: int | None = None,
        strict: bool = False,
        without: Sequence[str] = (),
    ) -> None:
        if workers is not None and workers < 1:
            raise ConfigError(f"workers is {workers}: at least one program must run at a time.")
        self.limits = limits or Limits()
        self.workers = workers or min(_processors(), _MOST_WORKERS)
        self.strict, self.without = strict, tuple(without)

    def run(self, program: Program) -> Outcome:
        """Run one program; `SandboxError` where it could not even be started."""
        if not sys.platform.startswith("linux"):
            raise SandboxError(
                f"generated code is run on Linux alone, where a process can be shut in; this is {sys.platform}. Score "
                "it there (a container does), or write the samples and score them with another tool."
            )
        if not sys.executable:
            raise SandboxError("this interpreter does not know its own program (sys.executable), so it starts none.")
        folder = tempfile.mkdtemp(prefix="expunge-code-")
        try:
            outcome = self._launch(program, folder)
        finally:
            _remove(folder)
        if outcome.weak:
            text = (
                f"generated code runs with nothing but an audit hook against {', '.join(outcome.weak)}, which is no "
                f"guarantee. This machine refuses: {'; '.join(outcome.problems) or 'namespaces'}."
            )
            if self.strict:
                raise SandboxError(f"{text} Permit user namespaces or Landlock, or drop strict.")
            if text not in _warned:
                _warned.add(text)
                log.warning(text)
        return outcome

    def run_all(
        self, programs: Sequence[Program], *, progress: Callable[[int, int, str], None] | None = None
    ) -> list[Outcome]:
        """Run all programs, several at a time; their outcomes in their order."""
        found: dict[int, Outcome] = {}
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                running = {pool.submit(self.run, program): place for place, program in enumerate(programs)}
                for done in as_completed(running):
                    found[running[done]] = done.result()
                    if progress is not None:
                        progress(len(found), len(programs), "running code")
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [found[place] for place in range(len(programs))]

    def _launch(self, program: Program, folder: str) -> Outcome:
        job = {**asdict(program), "limits": asdict(self.limits), "folder": folder, "without": self.without}
        environment = {"PYTHONHASHSEED": "0"}  # the same program, the same verdict
        if "LD_LIBRARY_PATH" in os.environ:  # some interpreters do not start without; the code itself never sees it
            environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
        start = _START.format(root=str(Path(__file__).resolve().parents[2]))
        process = subprocess.Popen(
            [sys.executable, *_FLAGS, "-c", start, folder],  # the folder is there to be seen in lists of processes
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )
        try:
            out, err = process.communicate(json.dumps(job).encode(), timeout=self.limits.seconds + _GRACE)
        except subprocess.TimeoutExpired:
            return Outcome("timed out", "the process that watches over the code did not end in time")
        finally:
            if process.poll() is None:  # only then is the number still its own
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        if process.returncode < 0:
            return Outcome("killed", "the process that watches over the code was killed")
        try:
            report: dict[str, Any] = json.loads(out)
        except ValueError:
            report = {"ready": None, "stderr": err.decode(errors="replace")}
        ready = report.pop("ready")
        if ready is None:
            last = report["stderr"].strip().splitlines()[-1:] or ["it said nothing"]
            raise SandboxError(f"code cannot be shut in on this machine, so none was run: {last[0]}")
        layers = {purpose: tuple(names) for purpose, names in ready["layers"].items()}
        return Outcome(**report, layers=layers, problems=tuple(ready["problems"]))


def _processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _remove(folder: str) -> None:
    """Remove a folder whatever rights were taken away inside it."""
    for path, folders, _ in os.walk(folder):
        for name in folders:
            inner = Path(path, name)
            if not inner.is_symlink():
                inner.chmod(stat.S_IRWXU)
    shutil.rmtree(folder, ignore_errors=True)
