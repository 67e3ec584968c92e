"""Running audits one after another: what is done is kept, what fails is recorded, and the others go on."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expunge.audits.interface import Audit, Audited
from expunge.audits.registry import audit_names, get_audit, make_audit
from expunge.distributed import on_main
from expunge.errors import ConfigError, ExpungeError, InputError
from expunge.files import write_json
from expunge.training.run import Progress, named, silent

log = logging.getLogger("expunge")

FILE = "audits.json"
FAILED = "failed"
_OUT_OF_TIME = "the time that was allowed (--budget) was over before it began; the same command goes on with it"
_LIFTED = {
    "activations": "This erasure acts on activations while the model runs: with the hook lifted, of course, the "
    "knowledge is there. What follows is what gets out while it is in place.",
    "inputs": "This erasure guards the inputs while the model runs: with the guard lifted, of course, the knowledge is "
    "there. What follows is what gets out while it is in place.",
}


@dataclass(frozen=True)
class Findings:
    """What audits found: ``audits`` has an entry by name (:meth:`~expunge.audits.interface.AuditResult.as_dict` with
    version, options and seconds), ``left_out`` why others did not run, ``waiting`` those yet to run. ``first``
    is what a reader must know before. ``finished``: none failed, and none waits."""

    audits: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    first: str | None = None
    models: tuple[str, ...] = ()
    waiting: list[str] = field(default_factory=list)

    @property
    def failed(self) -> dict[str, str]:
        """What went wrong, by the audit's name."""
        return {
            name: one["verdict"]["sentence"] for name, one in self.audits.items() if one["verdict"]["label"] == FAILED
        }

    @property
    def finished(self) -> bool:
        return not self.failed and not self.waiting

    def as_dict(self) -> dict[str, Any]:
        """The content of ``audits.json``."""
        return {
            "schema": 1,
            **({} if self.first is None else {"first": self.first}),
            "models": list(self.models),
            "finished": self.finished,
            "audits": self.audits,
            "left_out": self.left_out,
            "waiting": self.waiting,
        }


def chosen_audits(names: Sequence[str] | None, options: Mapping[str, Mapping[str, Any]] | None = None) -> list[Audit]:
    """The audits called ``names`` in that order, or those of the default set in their order (docs/meta.md).

    Raises:
        ConfigError: unknown names and options, options that do not go together, and those of an audit that is not
            chosen; all of them in one error.
    """
    options = dict(options or {})
    listed = audit_names()
    default = [name for name in listed if get_audit(name).by_default]
    wanted = list(names) if names is not None else sorted(default, key=lambda name: (get_audit(name).order, name))
    problems = [f"audits: '{name}' is named twice" for name in dict.fromkeys(wanted) if wanted.count(name) > 1]
    problems += [
        f"audits.{name}: this audit does not run; name it too (--audits)"
        for name in options
        if name in listed and name not in wanted
    ]
    found = []
    for name in dict.fromkeys([*wanted, *(name for name in options if name not in listed)]):
        try:
            audit = make_audit(name, dict(options.get(name) or {}))
            audit.check_options()
            found.append(audit)
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    return found


def check_options(audited: Audited, audits: Sequence[Audit]) -> None:
    """Raise one :class:`~expunge.errors.ConfigError` with all options that do not suit what is audited: asked before a
    folder is taken for them. Other reasons why an audit does not apply are told when it runs."""
    problems = []
    for audit in audits:
        if _as_it_comes(audit):
            continue
        try:
            audit.check(audited)
        except ConfigError as error:
            problems.append(str(error))
        except Exception:
            continue
    if problems:
        raise ConfigError("\n".join(problems))


def run_audits(
    audited: Audited,
    audits: Sequence[Audit],
    folder: Path | None = None,
    *,
    named_by_user: bool = True,
    budget: float | None = None,
    progress: Progress = silent,
) -> Findings:
    """Run ``audits`` and write what each found into ``folder`` at once; one that is there already is not run again.

    Args:
        named_by_user: an audit that does not apply has failed; else it is left out, with the reason, unless it is
            an option that is wrong.
        budget: seconds after which no audit begins.
    """
    kept: dict[str, Any] = on_main(lambda: _read(folder))
    wanted = {audit.name: {"version": audit.version, "options": audit.values()} for audit in audits}
    done = {
        name: kept[name]
        for name, one in wanted.items()
        if name in kept
        and kept[name]["verdict"]["label"] != FAILED
        and one == {"version": kept[name].get("version"), "options": kept[name].get("options")}
    }
    first = None if audited.kind is None else _LIFTED.get(audited.kind)
    found = Findings(done, {}, first, audited.models, [name for name in wanted if name not in done])
    _write(found, folder)  # a kill from here on leaves the names of those that did not run
    began = time.perf_counter()
    for audit in audits:
        if audit.name not in found.waiting:
            continue
        if budget is not None and time.perf_counter() - began >= budget:
            found.left_out[audit.name] = _OUT_OF_TIME
            continue
        entry = _entry(audit, audited, found, named_by_user, named(audit.name, progress))
        if entry is not None:
            entries = {**found.audits, audit.name: {**entry, **wanted[audit.name]}}
            found.audits.clear()  # they stand in the order of the choice, whichever had to wait
            found.audits.update({name: entries[name] for name in wanted if name in entries})
        found.waiting.remove(audit.name)
        _write(found, folder)
    _write(found, folder)
    return found


def over_seeds(folders: Mapping[int, Path]) -> dict[str, Any]:
    """The content of ``audits.json`` over several seeds: every seed's entries, each by its audit's name and seed, and
    so what was left out. What must be said first is said once where it is the same for all seeds that have it."""
    read = {seed: json.loads((folder / FILE).read_text(encoding="utf-8")) for seed, folder in folders.items()}
    lines = {seed: one["first"] for seed, one in read.items() if one.get("first")}
    said = list(dict.fromkeys(lines.values()))
    first = said[0] if len(said) == 1 else " ".join(f"Seed {seed}: {line}" for seed, line in lines.items())
    every = {key: value for key, value in next(iter(read.values())).items() if key != "first"}
    return {
        **every,
        **({"first": first} if first else {}),
        "finished": all(one["finished"] for one in read.values()),
        "audits": {f"{name}_seed_{seed}": entry for seed, one in read.items() for name, entry in one["audits"].items()},
        "left_out": {f"{name}_seed_{seed}": why for seed, one in read.items() for name, why in one["left_out"].items()},
        "waiting": [f"{name}_seed_{seed}" for seed, one in read.items() for name in one.get("waiting", ())],
    }


def failed_in(file: Path) -> list[str]:
    """The names of the audits that failed, by an ``audits.json``; none where there is no such file."""
    if not file.is_file():
        return []
    entries = json.loads(file.read_text(encoding="utf-8"))["audits"]
    return [name for name, entry in entries.items() if entry["verdict"]["label"] == FAILED]


def _entry(
    audit: Audit, audited: Audited, found: Findings, named_by_user: bool, progress: Progress
) -> dict[str, Any] | None:
    began = time.perf_counter()
    try:
        audit.check(audited)
        entry = audit.run(audited, progress=progress).as_dict()
    except Exception as error:  # whatever it is, the other audits go on
        wrong_option = isinstance(error, ConfigError) and not _as_it_comes(audit)
        if isinstance(error, InputError) and not named_by_user and not wrong_option:
            found.left_out[audit.name] = str(error)
            return None
        known = isinstance(error, ExpungeError)
        log.warning("audit %s failed: %s", audit.name, error, exc_info=not known)
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        entry = {"verdict": {"label": FAILED, "sentence": reason}, "rows": {}}
    return {**entry, "seconds": round(time.perf_counter() - began, 3)}


def _as_it_comes(audit: Audit) -> bool:
    """Whether all options have their defaults."""
    return audit.values() == {one["name"]: one["default"] for one in audit.parameters()}


def _read(folder: Path | None) -> dict[str, Any]:
    if folder is None or not (folder / FILE).is_file():
        return {}
    found: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8")).get("audits", {})
    return found


def _write(found: Findings, folder: Path | None) -> None:
    if folder is not None:
        on_main(lambda: write_json(folder / FILE, found.as_dict()))
