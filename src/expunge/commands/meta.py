"""``expunge meta``: train models that know some facts and models that do not, and see which metrics tell them apart."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from expunge.config.values import read_yaml, to_yaml
from expunge.errors import ConfigError
from expunge.files import for_json, write_json, write_text, writing
from expunge.meta.auditing import AuditTrust, audit_trusts, wanted_audits
from expunge.meta.auditing import markdown as audits_markdown
from expunge.meta.making import FOLDERS, Maker, Step, read_json
from expunge.meta.pool import Member, PoolRecipe, members
from expunge.meta.trust import Trust, markdown, trusts
from expunge.meta.workers import make_all
from expunge.run_folder import RunFolder, environment
from expunge.training.run import Progress, silent

WORLD = "authors"
FILE = "meta.json"
TABLE = "meta.md"
AUDITS_TABLE = "meta_audits.md"
_VERSION = 1  # of what is measured: another one does not go on with what an earlier one wrote


@dataclass(frozen=True)
class MetaResult:
    """The table, the most faithful metric first, that of the audits, the models, what each of them was measured at
    (``readings``: by name the metrics plain, held out, relearned and rounded; ``labels``: by name each audit's), and
    how all was made."""

    trusts: Sequence[Trust]
    audits: Sequence[AuditTrust]
    members: Sequence[Member]
    readings: Sequence[Mapping[str, Mapping[str, float | None]]]
    labels: Sequence[Mapping[str, str]]
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """The content of ``meta.json``."""
        return {
            "schema": 1,
            "world": WORLD,
            "settings": dict(self.settings),
            "models": [
                {**asdict(one), "knows": one.knows, "readings": reading, **({"audits": labels} if labels else {})}
                for one, reading, labels in zip(self.members, self.readings, self.labels, strict=True)
            ],
            "metrics": [one.as_dict() for one in self.trusts],
            **({"audits": [one.as_dict() for one in self.audits]} if self.audits else {}),
            "environment": dict(self.environment),
        }


def meta(
    out: str | Path,
    *,
    models: int = 40,
    seed: int = 0,
    jobs: int = 2,
    audits: str | Iterable[str] | None = None,
    recipe: PoolRecipe | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> MetaResult:
    """Judge metrics by ``models`` tiny models of world ``authors``, half of which know its forget rows.

    ``out`` keeps the pool (``bases/``, ``models/``), what every metric says of each model (``readings/``), and the
    table (``meta.json``, ``meta.md``). The same call goes on where it stopped, and one with more models goes on with
    those that are there. ``jobs`` models are in work at a time, each in a process with one thread: results depend
    neither on that number nor on that of the cores. The control of metrics that compare is the world's own retrained
    model.

    ``audits`` (names, or ``"all"`` of those that take seconds) look at every model too, beside a target and a control
    on the same base that are no members; what they find is kept in ``audits/``, how far they are to be trusted in
    ``meta_audits.md``.

    Raises:
        ConfigError: an odd number of models or fewer than 4, jobs below 1, an unknown audit.
        TrainingError: one of several processes stopped.
        OutputError: ``out`` holds something else, or a pool of other settings.
    """
    recipe = recipe or PoolRecipe()
    chosen = members(models, recipe)
    looking = wanted_audits(audits if audits is None or isinstance(audits, str) else list(audits))
    if jobs < 1:
        raise ConfigError(f"jobs={jobs}: at least one model must be in work.")
    from expunge.worlds.interface import get_world

    world = get_world(WORLD)
    settings = {"version": _VERSION, "world": WORLD, "seed": seed, "pool": asdict(recipe)}
    place = Path(out).expanduser()
    if overwrite:
        _clear(place)
    folder = RunFolder.open(place, to_yaml({"meta": for_json(settings)}), overwrite=overwrite)
    ran_on = environment(seeds=(seed,), data=world.data_hashes(), target={"fingerprint": world.fingerprint()})
    folder.record(ran_on)
    maker = Maker(folder.path, WORLD, recipe, seed, looking)
    make_all(maker, _missing(maker, chosen), jobs, progress)
    readings = [_short(read_json(maker.path("reading", one))) for one in chosen]
    audited = [read_json(maker.path("audits", one)) if looking else {"audits": {}} for one in chosen]
    labels = [
        {name: one["audits"][name]["verdict"]["label"] for name in looking if name in one["audits"]} for one in audited
    ]
    found = MetaResult(
        trusts(chosen, readings),
        audit_trusts(looking, chosen, audited) if looking else [],
        chosen,
        readings,
        labels,
        {**for_json(settings), "models": models},
        ran_on,
    )
    write_json(folder.path / FILE, found.as_dict())
    write_text(folder.path / TABLE, markdown(found.trusts))
    if looking:
        write_text(folder.path / AUDITS_TABLE, audits_markdown(found.audits))
    return found


def _missing(maker: Maker, chosen: Sequence[Member]) -> list[tuple[Step, list[Member]]]:
    """What is still to be done, in the order in which one thing takes another."""
    unread = [one for one in chosen if not maker.is_there("reading", one)]
    unaudited = [one for one in chosen if not maker.is_there("audits", one)] if maker.audits else []
    wanted = dict.fromkeys([*unread, *unaudited, *(one for member in unaudited for one in maker.beside(member))])
    untrained = [one for one in wanted if not maker.is_there("model", one)]
    bases = {one.base: one for one in untrained if not maker.is_there("base", one)}
    return [
        ("base", [bases[number] for number in sorted(bases)]),
        ("model", untrained),
        ("reading", unread),
        ("audits", unaudited),
    ]


def _short(reading: Mapping[str, Mapping[str, float | None]]) -> dict[str, dict[str, float | None]]:
    """Six digits of every number: what is written down is what is judged."""
    return {
        when: {name: None if value is None else float(f"{value:.6g}") for name, value in every.items()}
        for when, every in reading.items()
    }


def _clear(place: Path) -> None:
    """Delete an earlier pool, if that is what is there; anything else is for :class:`RunFolder` to judge."""
    run = place / "run.yaml"
    if not run.is_file() or "meta" not in read_yaml(run):
        return
    with writing(place):
        for name in FOLDERS:
            shutil.rmtree(place / name, ignore_errors=True)
        for name in (FILE, TABLE, AUDITS_TABLE, "environment.json", run.name):
            (place / name).unlink(missing_ok=True)
