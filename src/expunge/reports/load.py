"""Run folders, read into one frozen record each. No torch, no pandas: a report needs the files alone."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from expunge.errors import InputError

SCHEMA = 1
_SCORE_KEYS = ("schema", "suite", "rows", "verdict", "seconds")
_SKIPPED = {"erasure", "checkpoints", "model"}


class ReportError(InputError):
    """A folder that holds no run, an unfinished one, or files that do not read as a run's."""


@dataclass(frozen=True)
class Run:
    """One finished run folder. Files that a run of its kind does not write are empty here and named in
    ``missing``.

    ``label`` names the run beside others (its method, unless two runs share it). A run over several seeds has
    its medians in ``scores`` and one finished ``Run`` a seed in ``seeds``; ``samples`` and the erasure's
    ``manifest`` are then those of the first seed. ``figures`` are what an erasure keeps apart from its manifest to be
    drawn.
    """

    folder: Path
    label: str
    scores: dict[str, Any]
    samples: tuple[dict[str, Any], ...] = ()
    training: tuple[dict[str, Any], ...] = ()
    environment: dict[str, Any] | None = None
    settings: dict[str, Any] | None = None
    manifest: dict[str, Any] | None = None
    figures: dict[str, Any] | None = None
    audits: dict[str, Any] | None = None
    seeds: tuple[Run, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def method(self) -> str:
        """The method's name, from the run's settings or its erasure; the folder's name where neither says."""
        setting = (self.settings or {}).get("method")
        if isinstance(setting, dict) and setting.get("name"):
            return str(setting["name"])
        if isinstance(setting, str):
            return setting
        return str((self.manifest or {}).get("method") or self.folder.resolve().name)

    @property
    def suite(self) -> str:
        """The suite's name; empty where the folder holds audits alone."""
        return str(self.scores.get("suite", ""))

    @property
    def rows(self) -> dict[str, dict[str, dict[str, Any]]]:
        """``{"target" | "erased" | "retrained": {metric: entry}}``."""
        rows: dict[str, dict[str, dict[str, Any]]] = self.scores.get("rows", {})
        return rows

    @property
    def verdict(self) -> dict[str, Any]:
        """The verdict of ``scores.json``; empty where the folder holds audits alone."""
        verdict: dict[str, Any] = self.scores.get("verdict", {})
        return verdict

    @property
    def details(self) -> dict[str, Any]:
        """What the erasure says of itself, what is only drawn included."""
        details = (self.manifest or {}).get("details")
        return {**(details if isinstance(details, dict) else {}), **(self.figures or {})}


def find_runs(folder: str | Path) -> list[Path]:
    """The run folders in ``folder``: itself, or those nested in a comparison (at most two levels down), by
    name.

    Folders ``seed-N`` belong to the run above them and are not listed apart. Raises `ReportError` where there
    is no run, and where one has not finished: a comparison that quietly lacks a method would mislead.
    """
    root = Path(folder)
    if not root.exists():
        raise ReportError(
            f"There is no folder '{root}'. Pass the folder of a finished run, as "
            f"`expunge forget --out {root}` or `expunge demo --out {root}` write it."
        )
    if not root.is_dir():
        raise ReportError(f"'{root}' is a file. Pass the run's folder, the one that holds scores.json.")
    finished: list[Path] = []
    unfinished: list[str] = []
    _search(root, 2, finished, unfinished)
    if unfinished:
        raise ReportError("A report needs finished runs:\n" + "\n".join(f"  {line}" for line in unfinished))
    if not finished:
        raise ReportError(
            f"'{root}' holds no run: there is no scores.json in it or in the folders below. "
            f"`expunge forget --out {root}`, `expunge evaluate --out {root}` and `expunge demo --out {root}` "
            "make one."
        )
    return finished


def _search(folder: Path, depth: int, finished: list[Path], unfinished: list[str]) -> None:
    if _is_finished(folder):
        finished.append(folder)
        return
    seeds = _seed_folders(folder)
    started = [
        name for name in ("run.yaml", "environment.json", "erasure", "training.jsonl") if (folder / name).exists()
    ]
    if seeds or started:
        has = ", ".join([s.name for s in seeds] + started)
        lacks, command = _finishing(folder, next((p for p in (folder, *seeds) if (p / "run.yaml").exists()), None))
        unfinished.append(f"'{folder}' has {has} but no {lacks}: the run has not finished. {command} finishes it.")
        return
    if depth == 0:
        return
    for child in sorted(folder.iterdir()):
        if child.is_dir() and not child.name.startswith(".") and child.name not in _SKIPPED:
            _search(child, depth - 1, finished, unfinished)


def _finishing(folder: Path, config: Path | None) -> tuple[str, str]:
    """The file that an unfinished run lacks and the command that goes on with it, by the verb that made ``config``."""
    if config is None:
        return "scores.json", f"`expunge forget --out {folder}`"
    settings = _read_yaml(config / "run.yaml", []) or {}
    if "method" not in settings and "erased" in settings:  # neither verb takes its run file
        verb, lacks = ("audit", "audits.json") if "audits" in settings else ("evaluate", "scores.json")
        return lacks, f"The same `expunge {verb}` command (its settings are in {config / 'run.yaml'})"
    return "scores.json", f"`expunge run {config / 'run.yaml'} --out {folder}`"


def _is_finished(folder: Path) -> bool:
    return (folder / "scores.json").exists() or (folder / "audits.json").exists()


def _seed_folders(folder: Path) -> list[Path]:
    found = [p for p in folder.iterdir() if p.is_dir() and re.fullmatch(r"seed-\d+", p.name)]
    return sorted(found, key=lambda p: int(p.name.removeprefix("seed-")))


def _erasure_folder(root: Path, settings: Any) -> Path:
    """Where the run's erasure lies: in the run, or where ``evaluate --erasure`` was told that it is."""
    own, named = root / "erasure", settings.get("erasure") if isinstance(settings, dict) else None
    if own.is_dir() or not isinstance(named, str):
        return own
    inside = Path(named) / "erasure"
    return inside if inside.is_dir() else Path(named)


def load_run(folder: str | Path) -> Run:
    """Read one run folder (as `find_runs` gives them). Raises `ReportError` with every problem of its files
    at once."""
    root = Path(folder)
    if not root.is_dir() or not _is_finished(root):
        found = find_runs(root)
        raise ReportError(
            f"'{root}' is not a run itself but holds {len(found)}: {', '.join(p.name for p in found)}. "
            "Load those, or pass the folder to `report`, which takes them all."
        )
    problems: list[str] = []
    seed_folders = _seed_folders(root)
    seeds = []
    for path in seed_folders:
        if _is_finished(path):
            seeds.append(load_run(path))
        else:
            problems.append(f"{path}: no scores.json; this seed has not finished.")
    first = seeds[0] if seeds else None
    scores = _read_json(root / "scores.json", problems)
    _check_scores(root / "scores.json", scores, problems)
    samples = _read_lines(root / "samples.jsonl", problems)
    _check_samples(root / "samples.jsonl", samples or (), problems)
    training = _read_lines(root / "training.jsonl", problems)
    environment = _read_json(root / "environment.json", problems)
    settings = _read_yaml(root / "run.yaml", problems)
    erasure = _erasure_folder(root, settings)
    manifest = _read_json(erasure / "manifest.json", problems)
    figures = _read_json(erasure / "calibration.json", problems)
    audits = _read_json(root / "audits.json", problems)
    if problems:
        raise ReportError(
            f"The run in '{root}' cannot be read:\n" + "\n".join(f"  {p}" for p in problems) + "\n"
            "Run it again with --overwrite, or restore these files."
        )
    run = Run(
        folder=root,
        label="",
        scores=scores or {},
        samples=samples if samples is not None else first.samples if first else (),
        training=training if training is not None else first.training if first else (),
        environment=environment if environment is not None else first.environment if first else None,
        settings=settings if settings is not None else first.settings if first else None,
        manifest=manifest if manifest is not None else first.manifest if first else None,
        figures=figures if manifest is not None else first.figures if first else None,
        audits=audits,
        seeds=tuple(seeds),
    )
    missing = [
        name
        for name, value in (
            ("scores.json", run.scores),
            ("samples.jsonl", run.samples),
            ("environment.json", run.environment),
            ("run.yaml", run.settings),
        )
        if not value
    ]
    return replace(run, label=run.method, missing=tuple(missing))


def load_runs(folders: list[Path]) -> list[Run]:
    """Load several runs and give each a label of its own: the method, else the folder's name, else its
    path."""
    runs = [load_run(folder) for folder in folders]
    for name in (lambda r: r.method, lambda r: r.folder.resolve().name, lambda r: str(r.folder)):
        labels = [name(run) for run in runs]
        if len(set(labels)) == len(labels):
            break
    return [replace(run, label=label) for run, label in zip(runs, labels, strict=True)]


def _read_json(path: Path, problems: list[str]) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path}: cannot be read ({error}).")
        return None
    except json.JSONDecodeError as error:
        problems.append(f"{path}: line {error.lineno} is not JSON ({error.msg}).")
        return None
    if not isinstance(value, dict):
        problems.append(f"{path}: found a {type(value).__name__}, expected an object.")
        return None
    return value


def _read_lines(path: Path, problems: list[str]) -> tuple[dict[str, Any], ...] | None:
    if not path.exists():
        return None
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path}: cannot be read ({error}).")
        return None
    rows = []
    for at, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            problems.append(f"{path}: line {at} is not JSON ({error.msg}).")
            continue
        if isinstance(row, dict):
            rows.append(row)
        else:
            problems.append(f"{path}: line {at} is a {type(row).__name__}, expected an object.")
    return tuple(rows)


def _read_yaml(path: Path, problems: list[str]) -> dict[str, Any] | None:
    if not path.exists():
        return None
    import yaml

    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        problems.append(f"{path}: cannot be read ({error}).")
        return None
    if not isinstance(value, dict):
        problems.append(f"{path}: found a {type(value).__name__}, expected settings by name.")
        return None
    return value


def _check_scores(path: Path, scores: dict[str, Any] | None, problems: list[str]) -> None:
    if scores is None:
        return
    if scores.get("schema") != SCHEMA:
        problems.append(f"{path}: schema {scores.get('schema')!r}, this version reads schema {SCHEMA}.")
        return
    lacking = [key for key in _SCORE_KEYS if key not in scores]
    if lacking:
        problems.append(f"{path}: lacks {', '.join(lacking)}.")
        return
    for name in ("rows", "verdict", "seconds"):
        if not isinstance(scores[name], dict):
            problems.append(f"{path}: {name} is a {type(scores[name]).__name__}, expected an object.")
            return
    for model, metrics in scores["rows"].items():
        if not isinstance(metrics, dict):
            problems.append(f"{path}: rows.{model} is a {type(metrics).__name__}, expected metrics by name.")
            continue
        for metric, entry in metrics.items():
            if not isinstance(entry, dict) or not is_number(entry.get("value")):
                problems.append(f"{path}: rows.{model}.{metric} has no number under 'value'.")


def _check_samples(path: Path, samples: tuple[dict[str, Any], ...], problems: list[str]) -> None:
    for at, row in enumerate(samples, start=1):
        lacking = [key for key in ("set", "index", "prompt", "expected", "answers") if key not in row]
        if lacking:
            problems.append(f"{path}: row {at} lacks {', '.join(lacking)}.")


def is_number(value: object) -> bool:
    """Whether ``value`` is an int or a float (a bool is neither)."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def finite(value: object) -> float | None:
    """``value`` as a float, or None where it is no finite number (JSON in a page knows no NaN)."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None
