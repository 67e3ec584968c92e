"""What a fit is given besides model and request: settings, a folder to resume from, a display to report to."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.data.template import Style
from expunge.training.settings import TrainingSettings

if TYPE_CHECKING:
    from expunge.probing.result import ProbeResult
    from expunge.training.references import ReferenceStore

Progress = Callable[[int, int, str], None]
"""``progress(done, total, what)``."""


def silent(done: int, total: int, what: str) -> None:
    """A progress display that shows nothing."""


def named(name: str, progress: Progress) -> Progress:
    """The same display with ``name`` before what is going on."""
    return lambda done, total, what: progress(done, total, f"{name}: {what}")


@dataclass(frozen=True)
class Run:
    """``folder`` receives checkpoints (while training) and ``training.jsonl``; without one nothing is written and a
    killed run starts over. ``references`` holds what targets say about rows, ``probes`` what their activations are
    like: pass the same dictionaries to runs on the same target, and each computes only what no other has."""

    settings: TrainingSettings = field(default_factory=TrainingSettings)
    folder: Path | None = None
    template: Style = "auto"
    progress: Progress = silent
    references: dict[str, ReferenceStore] = field(default_factory=dict)
    probes: dict[str, ProbeResult] = field(default_factory=dict)

    @property
    def cache(self) -> Path | None:
        """Where to look for, and keep, what the target says beyond this process."""
        named = self.settings.reference_cache
        return None if named is None else Path(named).expanduser()


class History:
    """The training log: one JSON line a logged step, kept in memory and appended to ``training.jsonl``."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = []

    def resume_at(self, step: int) -> None:
        """Keep what a killed run logged up to ``step``, the checkpoint it goes on from, and drop the rest."""
        if self.path is None:
            return
        kept: list[dict[str, Any]] = []
        if step > 0 and self.path.exists():
            for text in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    line = json.loads(text)
                except json.JSONDecodeError:
                    break  # the line that the kill cut off
                if line["step"] <= step:
                    kept.append(line)
        self.lines = kept
        temporary = self.path.with_suffix(".jsonl.tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        temporary.replace(self.path)

    def add(self, line: dict[str, Any]) -> None:
        """Append one line; a number that is not finite is written as null."""
        line = _finite(line)
        self.lines.append(line)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
