"""The run folder: opened, resumed or refused; every file in it appears whole or not at all.

Of several processes the main one reads and writes; the others call the same functions and learn what it found.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

import expunge
from expunge.config.run_file import RunConfig
from expunge.config.values import flat, parse_value, read_yaml
from expunge.distributed import on_main, processes
from expunge.errors import ConfigError, OutputError
from expunge.files import write_json, write_text, writing
from expunge.methods.interface import Erasure

_PACKAGES = ("torch", "transformers", "accelerate", "peft", "datasets", "safetensors", "numpy", "scipy", "rouge-score")
_ENVIRONMENT = "environment.json"
_SAME = {  # what a run that goes on must be about, as before
    "data": "data",
    "target": "target",
    "erasure": "erasure",
    "erased": "erased model",
    "retrained": "retrained model",
}
_LISTED = 5
_FILES = {
    _ENVIRONMENT,
    "checkpoints",
    "erasure",
    "request",
    "audits.json",
    "report.html",
    "samples.jsonl",
    "scores.json",
    "training.jsonl",
    ".model",
}
_PROBE = {"forget", "retain", "groups", "probe.json", "probe.html"}
_CHECKPOINT = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")  # what save_pretrained writes
_SEED = re.compile(r"seed-\d+$")
_TEMPORARY = re.compile(r"\..+\.\d+\.(tmp|old)$")  # as files.py names them


class RunFolder:
    """A folder with ``run.yaml``, and in time ``erasure/``, ``scores.json``, ``samples.jsonl``, ``report.html``.

    ``run_name`` and ``last`` are the file that says what is run and the file that is written last.
    """

    def __init__(self, path: Path, run_name: str = "run.yaml", last: str = "report.html") -> None:
        self.path, self.run_name, self.last = path, run_name, last
        self._held: IO[bytes] | None = None

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
        """A new folder for the run that ``text`` (YAML) describes, or the unfinished one of the same run; a finished
        one to which further audits are added keeps what is done.

        Raises:
            OutputError: the folder holds a finished run, another run, or files that are no run's (which ``overwrite``
                does not delete either).
        """
        folder = cls.check(path, text, overwrite=overwrite, run_name=run_name, last=last)
        on_main(lambda: folder._take(text, overwrite=overwrite))
        return folder

    @classmethod
    def check(
        cls,
        path: str | Path,
        text: str,
        *,
        overwrite: bool = False,
        run_name: str = "run.yaml",
        last: str = "report.html",
    ) -> RunFolder:
        """What :meth:`open` refuses, without writing anything: asked before a large model is loaded."""
        folder = cls(Path(path), run_name, last)
        on_main(lambda: folder._check(text, overwrite=overwrite))
        return folder

    def _take(self, text: str, *, overwrite: bool) -> None:
        """Make the folder this run's and hold it."""
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock()
            if overwrite or not self._begun():
                self.clear()
        self._sweep()
        if not self.run_file.is_file() or self.run_file.read_bytes() != text.encode():  # new, or with further audits
            write_text(self.run_file, text)
            self._lock()

    def _check_deletable(self) -> None:
        """Refuse to delete a run beside which somebody keeps files of their own."""
        foreign = self._foreign()
        if foreign:
            more = f" and {len(foreign) - _LISTED} more" if len(foreign) > _LISTED else ""
            raise OutputError(
                f"{self.path} holds files that are no run's ({', '.join(foreign[:_LISTED])}{more}), so nothing in it "
                "is touched. Choose another folder."
            )

    def _foreign(self) -> list[str]:
        """Names in the folder that no run of this kind writes; nothing of theirs is ever deleted."""
        known = _FILES | {self.run_name}
        if self.last == "config.json":  # a trained model's own files
            known |= {entry.name for pattern in _CHECKPOINT for entry in self.path.glob(pattern)}
        if self.last == "probe.html":
            known |= _PROBE
        return sorted(
            entry.name
            for entry in self.path.iterdir()
            if entry.name not in known and not _TEMPORARY.match(entry.name) and not _SEED.match(entry.name)
        )

    def _check(self, text: str, *, overwrite: bool) -> None:
        """Refuse a folder that the run ``text`` may not use."""
        with writing(self.path):
            _check_writable(self.path)
            self._compare(text, overwrite=overwrite)

    def _compare(self, text: str, *, overwrite: bool) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"{self.path} is a file. Choose a folder for the run.")
        if not self.path.is_dir() or all(_TEMPORARY.match(entry.name) for entry in self.path.iterdir()):
            return
        if not self.run_file.is_file():
            raise OutputError(
                f"{self.path} exists and holds no run (there is no {self.run_name} in it), "
                "so nothing in it is touched. Choose another folder."
            )
        if overwrite and not (self.path / _ENVIRONMENT).is_file() and self.run_file.read_bytes() != text.encode():
            raise OutputError(
                f"{self.run_file} was not written by a run (there is no {_ENVIRONMENT} beside it), so it is not "
                "deleted. Choose another folder."
            )
        if overwrite or not self._begun():
            self._check_deletable()
            return
        if self.run_file.read_bytes() != text.encode():
            if _adds_audits(self.run_file, text):
                return
            raise OutputError(
                f"{self.path} holds another run: {_differences(self.run_file, text)}. "
                "Choose another folder, or pass --overwrite to delete that run."
            )
        if self.finished:
            raise OutputError(
                f"{self.path} holds this run, finished. See {self.path / self.last}; "
                "pass --overwrite to delete it and run again."
            )

    def _begun(self) -> bool:
        """Whether a run got further than saying what it is: one that was refused then leaves the folder to any other.

        A run file alone may be somebody's own, written by hand: nobody else's run replaces it.
        """
        if not (self.path / _ENVIRONMENT).is_file():
            return True
        facts = {self.run_name, _ENVIRONMENT}
        return any(file.is_file() and file.name not in facts for file in self.path.rglob("*"))

    def clear(self) -> None:
        """Delete what runs write: the run file last, so that a kill leaves what can be overwritten again."""
        if self.path.is_dir():
            foreign = set(self._foreign())
            order = {self.path / _ENVIRONMENT: 1, self.run_file: 2}
            for entry in sorted(self.path.iterdir(), key=lambda entry: order.get(entry, 0)):
                if entry.name not in foreign:
                    _delete(entry)

    def _lock(self) -> None:
        """Hold the run file for this process until it ends, so that two of them never write one run."""
        if fcntl is None or not self.run_file.is_file():
            return
        file = self.run_file.open("r+b")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                return  # a file system without locks
            raise OutputError(
                f"{self.path} is being written by another process. Wait for it to end, or choose another folder."
            ) from error
        self._held = file

    def _sweep(self) -> None:
        """Delete the temporary files of a killed process."""
        with writing(self.path):
            for entry in list(self.path.iterdir()):
                if _TEMPORARY.match(entry.name):
                    _delete(entry)

    @property
    def run_file(self) -> Path:
        return self.path / self.run_name

    @property
    def erasure_folder(self) -> Path:
        return self.path / "erasure"

    @property
    def scored(self) -> bool:
        """Whether the scores are there (they are written last, after the samples)."""
        return on_main(lambda: (self.path / "scores.json").is_file())

    @property
    def finished(self) -> bool:
        """Whether all is done, audits that failed or wait included: those are what the same command goes on with."""
        return (self.path / self.last).is_file() and not self._audits_left()

    def _audits_left(self) -> bool:
        try:
            found = json.loads((self.path / "audits.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False  # no audits; or the report says what is wrong with them
        return isinstance(found, dict) and found.get("finished") is False

    def seed_folder(self, config: RunConfig, seed: int) -> RunFolder:
        """The folder of one seed: this one where there is only one seed, else ``seed-N`` in it."""
        if len(config.seeds) == 1:
            return self
        folder = RunFolder(self.path / f"seed-{seed}")

        def make() -> None:
            with writing(folder.path):
                folder.path.mkdir(exist_ok=True)
            folder._sweep()
            write_text(folder.run_file, config.with_seed(seed).to_yaml())

        on_main(make)
        return folder

    def erasure(self) -> Erasure | None:
        """The erasure that a killed run had finished, if any."""
        return Erasure.load(self.erasure_folder) if on_main(self.erasure_folder.is_dir) else None

    def drop_checkpoints(self) -> None:
        """Remove what only resuming needed."""
        on_main(lambda: shutil.rmtree(self.path / "checkpoints", ignore_errors=True))

    def scores(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path / "scores.json").read_text(encoding="utf-8"))
        return found

    def record(self, environment: Mapping[str, Any]) -> None:
        """Write ``environment.json``; a resumed run is refused where its data changed since it began, or one of the
        models that it is about."""
        on_main(lambda: self._record(environment))

    def _record(self, environment: Mapping[str, Any]) -> None:
        path = self.path / _ENVIRONMENT
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            changed = [name for part, name in _SAME.items() if part in before and before[part] != environment.get(part)]
            if changed:
                raise OutputError(
                    f"{self.path} holds an unfinished run, and its {' and its '.join(changed)} changed since it began. "
                    "Choose another folder, or pass --overwrite to start over."
                )
        write_json(path, environment)


def _check_writable(path: Path) -> None:
    """Raise what the operating system would say about a new folder at ``path``."""
    place = path
    while not place.exists() and place.parent != place:
        place = place.parent
    if not place.is_dir():
        if place != path:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    elif not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _adds_audits(file: Path, text: str) -> bool:
    """Whether ``text`` is the run of ``file`` with further audits and the same ones, with their options."""
    try:
        (before, had), (now, wanted) = (_audits_apart(values) for values in (read_yaml(file), parse_value(text)))
    except (ConfigError, TypeError, ValueError):
        return False
    return before == now and len(had) < len(wanted) and all(wanted.get(name) == one for name, one in had.items())


def _audits_apart(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A run's settings without its audits, and the options of these by name."""
    return {name: one for name, one in values.items() if name != "audits"}, dict(values.get("audits") or {})


def _differences(file: Path, text: str) -> str:
    """Which settings of a folder's run file are not those of ``text``, in words."""
    try:
        saved, given = read_yaml(file), parse_value(text)
        before, now = flat(saved), flat(given)
        (rest, had), (others, wanted) = _audits_apart(saved), _audits_apart(given)
    except (ConfigError, TypeError, ValueError):
        return f"its {file.name} cannot be read"
    unnamed = [name for name in had if name not in wanted]
    if rest == others and unnamed and wanted:
        return f"its audits are {', '.join(had)}; name {', '.join(unnamed)} too, and what is done there is kept"
    changed = [
        f"{name} was {before.get(name)}, now {now.get(name)}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]
    if not changed:
        return f"its {file.name} differs in form"
    more = f" and {len(changed) - _LISTED} more" if len(changed) > _LISTED else ""
    return "; ".join(changed[:_LISTED]) + more


def _delete(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink()


def environment(
    *, seeds: tuple[int, ...], data: Mapping[str, Any], target: Mapping[str, Any], **more: Mapping[str, Any]
) -> dict[str, Any]:
    """What a run ran on: versions, hardware, seeds, hashes of the data, the target's fingerprint; ``more`` are those of
    an erasure or of other models."""
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
        **{name: dict(one) for name, one in more.items()},
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
        "processes": processes(),
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
