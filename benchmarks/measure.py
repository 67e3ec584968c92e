"""Paired timing: two ways of doing the same, in turn, so that a drifting machine slows both."""

from __future__ import annotations

import ctypes
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from expunge.run_folder import environment

RESULTS = Path(__file__).parent / "results"


def seconds(action: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def paired(ours: Callable[[], Any], other: Callable[[], Any], rounds: int) -> dict[str, Any]:
    """``rounds`` pairs after one warm-up of each: medians of both and of the ratio other/ours, pair by pair."""
    ours(), other()
    pairs = [(seconds(ours), seconds(other)) for _ in range(rounds)]
    ratios = sorted(b / a for a, b in pairs)
    return {
        "ours_seconds": round(median(a for a, _ in pairs), 3),
        "other_seconds": round(median(b for _, b in pairs), 3),
        "ratio": round(median(ratios), 3),
        "ratio_min": round(ratios[0], 3),
        "ratio_max": round(ratios[-1], 3),
        "rounds": rounds,
    }


def peak_mb(action: Callable[[], Any]) -> float:
    """MB that this process has at most while ``action`` runs, beyond what it holds before; Linux alone."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed must not hide what is taken
    Path("/proc/self/clear_refs").write_text("5")  # the highest size so far is forgotten
    before = _resident("VmRSS")
    action()
    return (_resident("VmHWM") - before) / 2**20


def _resident(field: str) -> int:
    """Bytes that the kernel says this process has (VmRSS) or had at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def write(name: str, result: dict[str, Any], *, keep: bool = False) -> None:
    """Keep a result with the environment it was measured in; ``keep`` the other parts of an earlier one."""
    RESULTS.mkdir(exist_ok=True)
    print(f"{name}: {json.dumps(result)}", flush=True)
    path = RESULTS / f"{name}.json"
    if keep and path.is_file():
        result = {**json.loads(path.read_text())["result"], **result}
    facts = environment(seeds=(0,), data={}, target={})
    facts = {key: facts[key] for key in ("expunge", "python", "platform", "packages", "hardware")}
    path.write_text(json.dumps({"result": result, "environment": facts}, indent=2) + "\n")
