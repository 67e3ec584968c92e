"""Starting a script as several processes that work together, as torchrun does, without the time torchrun takes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).parent


def launch(*arguments: object, processes: int = 2, seconds: float = 300) -> None:
    """Run ``python ARGUMENTS`` so often at once; fails with what was printed as soon as one of them fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    path = {"PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    started = []
    for number in range(processes):
        own = {key: str(value) for key, value in {**told, "RANK": number, "LOCAL_RANK": number}.items()}
        started.append(
            subprocess.Popen(
                [sys.executable, *map(str, arguments)],
                env={**os.environ, **path, **own},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    end = time.monotonic() + seconds
    try:
        while any(one.poll() is None for one in started) and not any(one.poll() for one in started):
            assert time.monotonic() < end, f"still running after {seconds} seconds"
            time.sleep(0.05)
        failed = [one for one in started if one.poll()]
    finally:
        for one in started:
            one.kill()
        printed = [one.communicate()[0] for one in started]
    assert not failed, "\n".join(printed)
