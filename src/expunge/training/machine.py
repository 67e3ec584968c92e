"""What a machine has to offer a training run: free memory, and how fast it multiplies matrices."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from expunge.training.arguments import uses_bfloat16
from expunge.training.plan import Machine
from expunge.training.scoring import LOGIT_BYTES

if TYPE_CHECKING:
    from expunge.training.settings import TrainingSettings

_PROBE_SECONDS = 0.3
_PROBE_SIZE = {"cpu": 1024, "cuda": 4096}


def this_machine(device: str, settings: TrainingSettings) -> Machine:
    """The machine as it is now; takes less than a second."""
    kind = torch.device(device).type
    autocast = uses_bfloat16(settings, on_cpu=kind == "cpu")
    host = free_host_bytes()
    return Machine(
        device=device,
        memory=int(torch.cuda.mem_get_info(device)[0]) if kind == "cuda" else host,
        host=host,
        program=resident_bytes(),
        flops=measured_flops(device, torch.bfloat16 if autocast else torch.float32),
        autocast=autocast,
        logit_bytes=LOGIT_BYTES.get(kind, LOGIT_BYTES["cuda"]),
    )


def measured_flops(device: str, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a square matrix product on ``device``."""
    kind = torch.device(device).type
    size = _PROBE_SIZE.get(kind, _PROBE_SIZE["cuda"])
    left = torch.full((size, size), 0.5, dtype=dtype, device=device)

    def seconds(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            torch.mm(left, left)
        if kind == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    seconds(1)
    once = max(seconds(1), 1e-6)
    count = max(1, int(_PROBE_SECONDS / once))
    return 2 * size**3 * count / max(seconds(count), 1e-9)


def free_host_bytes() -> int:
    """Memory that new processes can have without swapping, a container's limit included."""
    free = _meminfo()
    for folder, limit, used in (
        (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            allowed, taken = ((folder / name).read_text(encoding="ascii").strip() for name in (limit, used))
            facts = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
        except (OSError, ValueError):
            continue
        if allowed.isdigit() and taken.isdigit():
            cached = int(facts.get("inactive_file", 0))  # files that were read, given up when memory is wanted
            free = min(free, max(0, int(allowed) - int(taken) + cached))
    return free


def resident_bytes() -> int:
    """What this process holds in memory now."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return 2**29  # what the libraries take where it cannot be read
    return pages * os.sysconf("SC_PAGE_SIZE")


def _meminfo() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    known = getattr(os, "sysconf_names", {})
    pages = next((os.sysconf(name) for name in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES") if name in known), 0)
    return pages * os.sysconf("SC_PAGE_SIZE") if pages else 2**62
