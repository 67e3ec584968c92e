"""The run folder: opened, resumed or refused; every file in it appears whole or not at all."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import expunge
from expunge.config.run_file import RunConfig
from expunge.errors import OutputError
from expunge.files import write_json, write_text, writing
from expunge.methods.interface import Erasure

_PACKAGES = ("torch", "transformers", "accelerate", "peft", "datasets", "safetensors", "numpy", "scipy", "rouge-score")


class RunFolder:
    """A folder with ``run.yaml``, and in time ``erasure/``, ``scores.json``, ``samples.jsonl``, ``report.html``.

    ``run_name`` and ``last`` are the file that says what is run and the file that is written last.
    """

    def __init__(self, path: Path, run_name: str = "run.yaml", last: str = "report.html") -> None:
        self.path, self.run_name, self.last = path, run_name, last

    @classmethod
    def open(
        cls,
        path: str | Path,
        text: str,
        *,
        overwrite: bool = False,
        run_name: str = "run.yaml",
        last: str = "report.html",
    ) -> RunFolder:
        """A new folder for the run that ``text`` (YAML) describes, or the unfinished one of the same run.

        Raises:
            OutputError: the folder holds a finished run, another run, or files that are no run's (which ``overwrite``
                does not delete either).
        """
        folder = cls(Path(path), run_name, last)
        if folder.path.exists() and not folder.path.is_dir():
            raise OutputError(f"{path} is a file. Choose a folder for the run.")
        if folder.path.is_dir() and any(folder.path.iterdir()):
            if not folder.run_file.is_file():
                raise OutputError(
                    f"{path} exists and holds no run (there is no {run_name} in it), so nothing in it is touched. "
                    "Choose another folder."
                )
            same = folder.run_file.read_text(encoding="utf-8") == text
            if overwrite:
                folder.clear()
            elif not same:
                raise OutputError(
                    f"{path} holds another run (its {run_name} differs from these settings). "
                    "Choose another folder, or pass --overwrite to delete that run."
                )
            elif folder.finished:
                raise OutputError(
                    f"{path} holds this run, finished. See {folder.path / last}; "
                    "pass --overwrite to delete it and run again."
                )
        with writing(folder.path):
            folder.path.mkdir(parents=True, exist_ok=True)
        write_text(folder.run_file, text)
        return folder

    def clear(self) -> None:
        """Delete everything in the folder."""
        with writing(self.path):
            for entry in self.path.iterdir():
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()

    @property
    def run_file(self) -> Path:
        return self.path / self.run_name

    @property
    def erasure_folder(self) -> Path:
        return self.path / "erasure"

    @property
    def scored(self) -> bool:
        """Whether the scores are there (they are written last, after the samples)."""
        return (self.path / "scores.json").is_file()

    @property
    def finished(self) -> bool:
        return (self.path / self.last).is_file()

    def seed_folder(self, config: RunConfig, seed: int) -> RunFolder:
        """The folder of one seed: this one where there is only one seed, else ``seed-N`` in it."""
        if len(config.seeds) == 1:
            return self
        folder = RunFolder(self.path / f"seed-{seed}")
        with writing(folder.path):
            folder.path.mkdir(exist_ok=True)
        write_text(folder.run_file, config.with_seed(seed).to_yaml())
        return folder

    def erasure(self) -> Erasure | None:
        """The erasure that a killed run had finished, if any."""
        return Erasure.load(self.erasure_folder) if self.erasure_folder.is_dir() else None

    def drop_checkpoints(self) -> None:
        """Remove what only resuming needed."""
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)

    def scores(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path / "scores.json").read_text(encoding="utf-8"))
        return found

    def record(self, environment: Mapping[str, Any]) -> None:
        """Write ``environment.json``; a resumed run whose data or target changed since it began is refused."""
        path = self.path / "environment.json"
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            for part in ("data", "target"):
                if before.get(part) != environment.get(part):
                    raise OutputError(
                        f"{self.path} holds an unfinished run, and its {part} changed since it began. "
                        "Choose another folder, or pass --overwrite to start over."
                    )
        write_json(path, environment)


def environment(*, seeds: tuple[int, ...], data: Mapping[str, Any], target: Mapping[str, Any]) -> dict[str, Any]:
    """What a run ran on: versions, hardware, seeds, hashes of the data, the target's fingerprint."""
    return {
        "schema": 1,
        "expunge": expunge.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "hardware": _hardware(),
        "seeds": list(seeds),
        "data": dict(data),
        "target": dict(target),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _hardware() -> dict[str, Any]:
    import torch

    memory = None
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": memory,
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if sys.platform == "linux" and info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
