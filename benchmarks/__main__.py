"""Run the benchmarks of speed and memory: all of them, or those that are named. Each runs in a fresh process."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

SPEED = (
    "loading",
    "negation",
    "weight_methods",
    "activations",
    "guards",
    "teacher",
    "patching",
    "sampling",
    "audit_growth",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(SPEED)}")
    names = parser.parse_args().names
    unknown = [name for name in names if name not in SPEED]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}. There are {', '.join(SPEED)}.")
    for name in names or SPEED:
        command = [sys.executable, "-m", f"benchmarks.{name}"]
        subprocess.run(command, check=True, cwd=Path(__file__).parent.parent)


if __name__ == "__main__":
    main()
