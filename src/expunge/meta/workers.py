"""Several models of a pool in work at a time, each in a process of its own.

Models this small keep Python busy rather than the processor's arithmetic, so that threads would wait for each other. A
worker is ``python -m expunge.meta.workers``: it reads what to do as lines of JSON and answers each with one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from queue import SimpleQueue
from typing import Any

from expunge.errors import ExpungeError, TrainingError
from expunge.meta.making import Maker, Step
from expunge.meta.pool import Member, PoolRecipe
from expunge.training.run import Progress, silent

_SAID = {
    "base": "training bases",
    "model": "training models",
    "reading": "reading models",
    "audits": "auditing models",
}


def make_all(
    maker: Maker, steps: Sequence[tuple[Step, Sequence[Member]]], jobs: int, progress: Progress = silent
) -> None:
    """Do every step for its members, ``jobs`` at a time and one thread each; a step begins when the one before it is
    over. After the first error nothing new is begun.

    Raises:
        TrainingError: a worker stopped, or what it was doing failed.
    """
    done, total = 0, sum(len(members) for _, members in steps)
    if jobs == 1 or max((len(members) for _, members in steps), default=0) < 2:
        with _one_thread():
            for step, members in steps:
                for member in members:
                    maker.make(step, member)
                    done += 1
                    progress(done, total, _SAID[step])
        return
    free: SimpleQueue[_Worker] = SimpleQueue()
    with _workers(maker, jobs) as every, ThreadPoolExecutor(jobs) as threads:
        for worker in every:
            free.put(worker)

        def make(step: Step, member: Member) -> None:
            worker = free.get()
            try:
                worker.make(step, member)
            finally:
                free.put(worker)

        for step, members in steps:
            waiting = [threads.submit(make, step, member) for member in members]
            try:
                for one in waiting:
                    one.result()
                    done += 1
                    progress(done, total, _SAID[step])
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                for worker in every:
                    worker.stop()
                raise


class _Worker:
    def __init__(self, maker: Maker) -> None:
        one_thread = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "expunge.meta.workers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **one_thread, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # an interrupt is for this process, which then stops its workers
        )
        self._tell(
            {
                "folder": str(maker.folder.resolve()),
                "world": maker.world,
                "recipe": asdict(maker.recipe),
                "seed": maker.seed,
                "audits": list(maker.audits),
            }
        )

    def make(self, step: Step, member: Member) -> None:
        what = f"{_SAID[step]}: {member.name}"
        try:
            self._tell({"step": step, "member": asdict(member)})
            answer = self._process.stdout.readline() if self._process.stdout else ""
        except OSError:
            answer = ""
        if not answer:
            raise TrainingError(
                f"{what}: the process stopped (exit code {self._process.wait()}; out of memory?). The same command "
                "goes on; --jobs 1 takes less memory."
            )
        failed = json.loads(answer).get("error")
        if failed:
            raise TrainingError(f"{what}: {failed}")

    def stop(self) -> None:
        if self._process.stdin:
            with suppress(OSError):  # it stopped before it read all
                self._process.stdin.close()
        self._process.terminate()
        self._process.wait()

    def _tell(self, what: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()


@contextmanager
def _workers(maker: Maker, count: int) -> Iterator[list[_Worker]]:
    found: list[_Worker] = []
    try:
        for _ in range(count):
            found.append(_Worker(maker))
        yield found
    finally:
        for worker in found:
            worker.stop()


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _work() -> None:
    """What a worker does: until its input ends, a line of work, a line of answer."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints must not be taken for an answer
    first = json.loads(sys.stdin.readline())
    recipe: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in first["recipe"].items()
    }
    maker = Maker(first["folder"], first["world"], PoolRecipe(**recipe), first["seed"], first["audits"])
    with _one_thread():
        for line in sys.stdin:
            work = json.loads(line)
            try:
                maker.make(work["step"], Member(**work["member"]))
                answer: dict[str, str] = {}
            except ExpungeError as error:
                answer = {"error": str(error)}
            except Exception as error:  # the process that asked says so
                answer = {"error": f"{type(error).__name__}: {error}"}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    _work()
