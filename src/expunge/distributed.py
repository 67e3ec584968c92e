"""Several processes as one run: which of them this is, and how they tell each other things.

``torchrun`` and ``accelerate launch`` start one process a device and say so in the environment. All of them run the
same code, and every function here that waits for the others is called by all of them, in the same order. With one
process nothing is imported and nothing is sent.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from expunge.errors import ConfigError, ExpungeError, ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")

_TOLD = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_PATIENCE = timedelta(hours=2)  # of processes that wait while the main one works; a launcher ends a failed run sooner
_OTHERS = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}
_alone = False


def processes() -> int:
    """How many processes work on this run (inside :func:`on_main`: one)."""
    return 1 if _alone or any(name not in os.environ for name in _TOLD) else int(os.environ["WORLD_SIZE"])


def process() -> int:
    """The number of this process, from 0."""
    return int(os.environ["RANK"]) if processes() > 1 else 0


def is_main() -> bool:
    """Whether this is the process that writes files and talks."""
    return process() == 0


def gpu() -> str:
    """The GPU of this process: ``cuda`` where there is one process, else the one of its place on its machine.

    Raises:
        ModelError: this machine has fewer GPUs than processes.
    """
    if processes() == 1:
        return "cuda"
    import torch

    place, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if place >= there:
        raise ModelError(
            f"process {place} of this machine has no GPU of its own: there are {there}. Start as many processes as "
            "there are GPUs (--nproc-per-node), or use model.device=cpu."
        )
    return f"cuda:{place}"


def barrier() -> None:
    """Wait until every process is here."""
    gather([])


def gather(values: Iterable[T]) -> list[T]:
    """The values of all processes, one process after the other, in every process. They travel as pickles."""
    own = list(values)
    if processes() == 1:
        return own
    lists: list[list[T]] = [[] for _ in range(processes())]
    _joined().all_gather_object(lists, own)
    return [value for some in lists for value in some]


def broadcast(value: T) -> T:
    """The main process's value, in every process."""
    if processes() == 1:
        return value
    box = [value]
    _joined().broadcast_object_list(box, src=0)
    return box[0]


def on_main(function: Callable[[], T]) -> T:
    """What ``function`` returns in the main process, in every process; an error that a user can act on is raised in
    all of them. Meanwhile the main process counts as the only one, so that whatever it calls waits for nobody."""
    if processes() == 1:
        return function()
    found: T | None = None
    error: ExpungeError | None = None
    if is_main():
        try:
            with _by_itself():
                found = function()
        except ExpungeError as raised:
            error = raised
    found, error = broadcast((found, error))
    if error is not None:
        raise error
    return found  # type: ignore[return-value]


def share(sizes: Sequence[int]) -> list[int]:
    """This process's part of the indices of ``sizes``: large ones first, dealt forth and back, so that all processes
    have as many and about as much."""
    order = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
    if processes() == 1:
        return order
    turn = 2 * processes()
    return [index for place, index in enumerate(order) if process() in (place % turn, turn - 1 - place % turn)]


def leave() -> None:
    """Part from the other processes after a run that ended well."""
    if _joined.cache_info().currsize:
        barrier()
        gc.collect()  # what else holds the group, so that its threads end here
        _joined().destroy_process_group()
        _joined.cache_clear()


def join() -> None:
    """Meet the other processes, for those who talk to them by ``torch.distributed`` itself."""
    if processes() > 1:
        _joined()


@contextmanager
def _by_itself() -> Iterator[None]:
    global _alone
    _alone = True
    try:
        yield
    finally:
        _alone = False


@cache
def _joined() -> Any:
    """``torch.distributed``, with the processes of this run in it: gloo for what is in host memory, NCCL on GPUs."""
    import torch
    import torch.distributed as together

    for name, what in _OTHERS.items():
        if os.environ.get(name, "false").lower() == "true":
            raise ConfigError(
                f"the processes were launched for {what}, and expunge does its own sharding. Launch them without it "
                "(torchrun, or accelerate launch --multi_gpu), and set training.sharding=full."
            )
    os.environ["ACCELERATE_MIXED_PRECISION"] = "no"  # a launcher's default; precision is training.dtype's to say
    on_gpu = torch.cuda.is_available() and int(os.environ["LOCAL_RANK"]) < torch.cuda.device_count()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not together.is_initialized():
        together.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=_PATIENCE)
    return together
