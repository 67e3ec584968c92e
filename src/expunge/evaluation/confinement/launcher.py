"""The process between the caller and the code: it forks the one that is shut in, watches it, and ends it.

Run as a program of its own in a fresh interpreter (a process with threads must not fork, and a fresh one holds no
secrets). It reads one JSON object from standard input and writes one to standard output.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
import types
from pathlib import Path
from traceback import format_exception, format_exception_only
from typing import Any

from expunge.evaluation.confinement import kernel, layers

_TAIL = 2000  # bytes of output that are reported
_MESSAGE = 64 * 1024  # the longest result
_STARTING = 20.0  # seconds that shutting in may take, on a busy machine
_RESERVE = 2**20  # bytes given back when memory is full, to be able to say so


def main() -> None:
    """Read the job, run it shut in, report."""
    job = json.loads(sys.stdin.buffer.read())
    kernel.adopt_orphans()
    kernel.die_with_parent()
    os.umask(0o022)
    os.environ.clear()
    token = os.urandom(16).hex()
    launcher = os.getpid()
    no_namespaces = layers.enter_namespaces(job["without"])
    pipes = {name: os.pipe() for name in ("result", "out", "err")}
    child = os.fork()
    if child == 0:
        try:
            _worker(job, token, pipes, launcher, no_namespaces)
        finally:
            os._exit(70)
    for _, write in pipes.values():
        os.close(write)
    report = _Watch(child, token, {name: read for name, (read, _) in pipes.items()}, job["limits"]).report()
    sys.stdout.write(json.dumps(report))


class _Watch:
    """Reads what the child writes, within bounds, until it has a verdict; then ends it and all it left behind."""

    def __init__(self, child: int, token: str, pipes: dict[str, int], limits: dict[str, Any]) -> None:
        self.child, self.token, self.limits = child, token, limits
        self.open = {descriptor: name for name, descriptor in pipes.items()}
        self.texts = {"out": b"", "err": b""}
        self.written = 0
        self.line = b""
        self.ready: dict[str, Any] | None = None
        self.result: dict[str, Any] | None = None
        self.status: int | None = None
        self.cpu = 0.0

    def report(self) -> dict[str, Any]:
        began = time.monotonic()
        deadline = began + _STARTING
        late = loud = False
        while self.result is None and self.status is None:
            if self.ready is not None and deadline == began + _STARTING:
                began = time.monotonic()
                deadline = began + self.limits["seconds"]
            late = time.monotonic() >= deadline
            loud = self.written > self.limits["output_bytes"] or len(self.line) > _MESSAGE
            if late or loud:
                break
            self._read(min(deadline - time.monotonic(), 0.05) if self.open else 0.002)
            self._reap(os.WNOHANG)
        seconds = time.monotonic() - began
        own_end = self.status is not None
        self._end()
        while self._read(0):
            pass
        verdict, detail = self._verdict(late=late, loud=loud, own_end=own_end)
        return {
            "verdict": verdict,
            "detail": detail,
            "stdout": self.texts["out"].decode(errors="replace"),
            "stderr": self.texts["err"].decode(errors="replace"),
            "seconds": seconds,
            "ready": self.ready,
        }

    def _verdict(self, *, late: bool, loud: bool, own_end: bool) -> tuple[str, str]:
        if self.result is not None:
            return str(self.result["verdict"]), str(self.result["detail"])
        if self.cpu >= self.limits["cpu_seconds"] - 0.1:
            return "timed out", f"used {self.limits['cpu_seconds']} s of processor time"
        if late:
            return "timed out", f"took longer than {self.limits['seconds']} s"
        if loud:
            return "killed", f"wrote more than {self.limits['output_bytes']} bytes of output"
        if own_end and self.status is not None and os.WIFSIGNALED(self.status):
            return "killed", f"ended by signal {signal.Signals(os.WTERMSIG(self.status)).name}"
        code = os.waitstatus_to_exitcode(self.status) if self.status is not None else None
        return "error", f"ended with exit status {code} before its tests were through"

    def _read(self, patience: float) -> bool:
        """Take in what is there; whether there was anything."""
        poll = select.poll()
        for descriptor in self.open:
            poll.register(descriptor, select.POLLIN)
        events = poll.poll(max(patience, 0) * 1000)
        for descriptor, _ in events:
            data = os.read(descriptor, 65536)
            name = self.open[descriptor]
            if not data:
                os.close(descriptor)
                del self.open[descriptor]
            elif name == "result":
                self._take(data)
            else:
                self.written += len(data)
                self.texts[name] = (self.texts[name] + data)[-_TAIL:]
        return bool(events)

    def _take(self, data: bytes) -> None:
        """Complete lines that carry the token count, the first of each kind; others are passed over."""
        *lines, self.line = (self.line + data).split(b"\n")
        for line in lines:
            try:
                message = json.loads(line)
                kind = message.pop("kind") if message.pop("token") == self.token else None
            except (ValueError, AttributeError, KeyError, TypeError):
                continue
            if kind == "ready" and self.ready is None:
                self.ready = message
            elif kind == "result" and self.result is None and self.ready is not None:
                self.result = message

    def _reap(self, options: int) -> None:
        if self.status is None:
            found, status, usage = os.wait4(self.child, options)
            if found:
                self.status, self.cpu = status, usage.ru_utime + usage.ru_stime

    def _end(self) -> None:
        """End the child and, where it has no process namespace that dies with it, the processes it left."""
        if self.status is None:
            os.kill(self.child, signal.SIGKILL)
            self._reap(0)
        for _ in range(10_000):
            try:
                if os.waitpid(-1, os.WNOHANG)[0]:
                    continue
            except ChildProcessError:
                return
            for one in _children():
                os.kill(one, signal.SIGKILL)
            time.sleep(0.001)


def _children() -> list[int]:
    own = os.getpid()
    return [int(number) for number in Path(f"/proc/{own}/task/{own}/children").read_text(encoding="ascii").split()]


def _worker(
    job: dict[str, Any], token: str, pipes: dict[str, tuple[int, int]], launcher: int, no_namespaces: str
) -> None:
    """Shut this process in and run the code; everything that is needed afterwards is made before."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    out = pipes["result"][1]
    for source, target in ((nothing, 0), (pipes["out"][1], 1), (pipes["err"][1], 2)):
        os.dup2(source, target)
    os.closerange(3, out)
    os.closerange(out + 1, 1024)
    begun = layers.shut_in(
        job["folder"], job["limits"], launcher=launcher, no_namespaces=no_namespaces, without=job["without"]
    )
    _run(job, token, out, json.dumps({"kind": "ready", "token": token, **begun}).encode() + b"\n")


def _run(job: dict[str, Any], token: str, out: int, ready: bytes) -> None:
    # What the code replaces (os.write, json.dumps, sys.stdout, ..) is bound or made before it runs.
    write, leave, compiled, execute, shown = os.write, os._exit, compile, exec, format_exception
    last, dumps, size, kinds = format_exception_only, json.dumps, _TAIL, (AssertionError, MemoryError)
    flush = sys.stdout.flush

    def message(verdict: str, detail: str = "") -> bytes:
        return dumps({"kind": "result", "token": token, "verdict": verdict, "detail": detail}).encode() + b"\n"

    passed, full = message("passed"), message("out of memory", "the memory limit was reached")
    reserve = bytearray(_RESERVE)
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    parts = [("<solution>", job["code"]), ("<setup>", job["setup"])]
    parts += [(f"<test {number}>", test) for number, test in enumerate(job["tests"], 1)]
    del job
    write(out, ready)
    try:
        for name, text in parts:
            execute(compiled(text, name, "exec"), module.__dict__)
        flush()
    except BaseException as error:  # SystemExit and KeyboardInterrupt are errors of the code too
        if isinstance(error, kinds[1]):
            error.__traceback__ = None
            del reserve
            write(out, full)
            leave(0)
        detail = "".join(last(error)).strip()[-size:]
        write(2, "".join(shown(error))[-size:].encode(errors="replace"))
        write(out, message("failed" if isinstance(error, kinds[0]) else "error", f"{name}: {detail}"))
        leave(0)
    write(out, passed)
    leave(0)
