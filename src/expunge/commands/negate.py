"""``expunge negate``: subtract what harmful models learned from a target, without loading any of them."""

from __future__ import annotations

import hashlib
import logging
import math
import re
import shutil
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import expunge
from expunge.errors import InputError, ModelError
from expunge.files import write_json, writing
from expunge.models.shards import version_of
from expunge.negation_folder import RECORD, Staging, check_place
from expunge.training.run import Progress, silent

if TYPE_CHECKING:
    from expunge.models.shards import Shard
    from expunge.training.harmful import Checkpoint
    from expunge.training.task_vectors import TaskVector

log = logging.getLogger("expunge")

_LISTED = 50
_MEGABYTE = 2**20
_WHAT = "subtracting (MB)"
_BESIDE = re.compile(r"[^.].*\.(json|txt|jinja|model|tiktoken|spm|bpe|codes|vocab|merges|py)|(LICENSE|NOTICE)[^/]*")
_TEMPLATES = "additional_chat_templates/*.jinja"
_NOT_ITS = re.compile(
    r"(?!model\.safetensors)[^/]+\.index\.json|adapter_config\.json|manifest\.json|negation\.json|environment\.json"
    r"|scores\.json|audits\.json|trainer_state\.json|(all|eval|train)_results\.json"
)
"""Records of training and scoring, and indices of weights that are not taken: they would not be true of the result."""


@dataclass(frozen=True)
class Negation:
    """What a call wrote: its ``folder``, the ``scale`` and how many ``vectors`` were subtracted, how many of its
    ``tensors`` were ``changed``, and how many of its ``files`` an earlier, killed call had ``finished``."""

    folder: Path
    scale: float
    vectors: int
    tensors: int
    changed: int
    files: int
    finished: int


def negate(
    target: str | Path,
    harmful: str | Path | Iterable[str | Path],
    *,
    out: str | Path,
    scale: float = 1.0,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Path:
    """Write ``theta_target - scale * sum_i (theta_harm_i - theta_target)`` as a checkpoint; returns its folder.

    The second stage of SKU (2402.10058); several task vectors add up (2212.04089). ``target`` is a folder, a hub id in
    the local cache or ``world:NAME``; each of ``harmful`` is a checkpoint of the same architecture, a LoRA adapter as
    PEFT saves it, or the erasure or run folder of a harmful copy made from the target. Nothing is loaded whole: a few
    megabytes are in memory at a time, whatever the models' size. The result has the target's files, names and
    precision; tensors that no harmful model changes are the target's bit for bit. A killed call goes on at the first
    file it had not finished when it is given again.

    Raises:
        InputError: an erasure that is no harmful copy, one harmful model named twice, the target itself.
        ModelError: tensors that do not match (all of them in one message, before anything is written), weights that
            cannot be subtracted (quantised, pickled, more than plain LoRA), a result that is not finite.
        ErasureError: an erasure that is damaged or was made from another model.
        OutputError: ``out`` exists and ``overwrite`` was not given, or it holds more than a checkpoint, or it is one of
            the models' own folders, lies in one or holds one.
    """
    return subtract(target, harmful, out=out, scale=scale, overwrite=overwrite, progress=progress).folder


def subtract(
    target: str | Path,
    harmful: str | Path | Iterable[str | Path],
    *,
    out: str | Path,
    scale: float = 1.0,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Negation:
    """:func:`negate`, saying what it did."""
    from expunge.training.harmful import find_harmful, open_harmful, open_target

    given = [str(path) for path in ([harmful] if isinstance(harmful, str | Path) else harmful)]
    if not given:
        raise InputError("there is no harmful model to subtract. Name at least one.")
    if isinstance(scale, bool) or not math.isfinite(scale):
        raise InputError(f"scale={scale}: expected a finite number.")
    to = Path(out).expanduser().resolve()
    opened = open_target(str(target))
    folders = [find_harmful(path) for path in given]
    own = {
        opened.folder.resolve(),
        *(folder.resolve() for folder in folders),
        *(Path(p).resolve() for p in given if Path(p).is_dir()),
    }
    check_place(to, own, overwrite=overwrite)
    if opened.folder in folders:
        raise InputError(f"{given[folders.index(opened.folder)]} is the target itself: the difference is nothing.")
    twice = [path for at, path in enumerate(given) if folders[at] in folders[:at]]
    if twice:
        raise InputError(
            f"named more than once: {', '.join(twice)}. Name each harmful model once; to take more away, raise --scale."
        )
    progress(0, 1, "checking")
    pairs = [open_harmful(folder, opened) for folder in folders]
    _refuse_misfits(given, [problems for _, problems in pairs])
    vectors = [vector for vector, _ in pairs]
    facts = _facts(opened, vectors, float(scale))
    with Staging(to, facts) as staging:
        finished = len(staging.entries)
        hashes = _stream(opened.shards, vectors, facts, staging, progress)
        if facts != _facts(opened, vectors, float(scale)):
            raise ModelError("a model's files changed while they were read. Nothing was kept; give the command again.")
        copied = _copy_files(opened.folder, staging.model)
        changed = sorted(name for entry in staging.entries.values() for name in entry["changed"])
        if not changed and scale:
            log.warning("no tensor changed: the harmful models have the target's weights.")

        def model(path: str, files: Iterable[str]) -> dict[str, Any]:
            return {"path": path, "files": {Path(file).name: hashes[file] for file in files}}

        record = {
            "schema": 1,
            "expunge": expunge.__version__,
            "scale": float(scale),
            "target": model(str(target), facts["target"]),
            "harmful": [model(path, files) for path, files in zip(given, facts["harmful"], strict=True)],
            "tensors": len(opened.tensors),
            "changed": changed,
            "files": {name: staging.entries[name]["sha256"] for name in sorted(staging.entries)},
            "copied": copied,
        }
        write_json(staging.model / RECORD, record)
        check_place(to, own, overwrite=overwrite)
        staging.finish()
    return Negation(to, float(scale), len(vectors), len(opened.tensors), len(changed), len(opened.shards), finished)


def _refuse_misfits(given: Sequence[str], problems: Sequence[list[str]]) -> None:
    """One error with every tensor of every harmful model that does not match."""
    parts = []
    for path, found in zip(given, problems, strict=True):
        if found:
            more = [f"  and {len(found) - _LISTED} more"] if len(found) > _LISTED else []
            parts += [f"{path}:", *(f"  {line}" for line in found[:_LISTED]), *more]
    if parts:
        count = sum(map(len, problems))
        raise ModelError(
            f"{count} tensor{' does' if count == 1 else 's do'} not match the target's, so nothing was written. "
            "Pass harmful models trained from this very target.\n" + "\n".join(parts)
        )


def _facts(target: Checkpoint, vectors: Sequence[TaskVector], scale: float) -> dict[str, Any]:
    """What the result depends on: a killed call goes on only where all of it is the same."""
    return {
        "expunge": expunge.__version__,
        "scale": scale,
        "target": {str(shard.file): version_of(shard.file) for shard in target.shards},
        "harmful": [{str(file): version_of(file) for file in vector.files} for vector in vectors],
    }


def _stream(
    shards: Sequence[Shard],
    vectors: Sequence[TaskVector],
    facts: Mapping[str, Any],
    staging: Staging,
    progress: Progress,
) -> dict[str, str]:
    """Write every file that is not finished yet; returns the SHA-256 of every file that was read."""
    from expunge.training.task_vectors import negate_shard

    total = sum(shard.size for shard in shards)
    moved = sum(shard.size for shard in shards if shard.file.name in staging.entries)
    staging.check_space(total - moved)
    if moved:
        log.info("going on: %d of %d files are finished.", len(staging.entries), len(shards))

    def show(size: int) -> None:
        nonlocal moved
        moved += size
        progress(moved // _MEGABYTE, max(1, total // _MEGABYTE), _WHAT)

    inputs = [file for model in (facts["target"], *facts["harmful"]) for file in model]
    with _Hashes(inputs) as hashes:
        for shard in shards:
            name = shard.file.name
            if name in staging.entries:
                continue
            with staging.part(name) as part:
                written = negate_shard(shard, vectors, facts["scale"], part, moved=show)
            entry = {"bytes": shard.size, "sha256": written.sha256, "changed": list(written.changed)}
            staging.record(name, entry)
        progress(0, 1, "hashing what was read")
        return hashes.all()


class _Hashes:
    """Hashes files beside the subtraction, which mostly waits for memory and the disk."""

    def __init__(self, files: Iterable[str]) -> None:
        self._files, self._found = list(dict.fromkeys(files)), dict[str, str]()
        self._stop = threading.Event()
        self._failed: OSError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def all(self) -> dict[str, str]:
        """SHA-256 by file, once all are hashed."""
        self._thread.join()
        if self._failed is not None:
            raise ModelError(f"{self._failed.filename} cannot be read: {self._failed}.") from self._failed
        return self._found

    def _run(self) -> None:
        try:
            for name in self._files:
                digest = hashlib.sha256()
                with Path(name).open("rb", buffering=0) as file:
                    while (data := file.read(_MEGABYTE)) and not self._stop.is_set():
                        digest.update(data)
                self._found[name] = digest.hexdigest()
        except OSError as error:
            self._failed = error


def _copy_files(source: Path, to: Path) -> list[str]:
    """Copy what lies beside the target's weights: configuration, tokenizer, chat templates, code; returns the names."""
    copied = []
    for entry in sorted([*source.iterdir(), *source.glob(_TEMPLATES)]):
        if entry.is_file() and _BESIDE.fullmatch(entry.name) and not _NOT_ITS.fullmatch(entry.name):
            name = entry.relative_to(source).as_posix()
            with writing(to / name):
                (to / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(entry, to / name)
            copied.append(name)
    return copied
