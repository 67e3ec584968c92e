"""``expunge meta``: train models that know some facts and models that do not, and see which metrics tell them apart."""

from __future__ import annotations

import json
import math
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.config.values import read_yaml, to_yaml
from expunge.errors import ConfigError
from expunge.files import new_folder, write_json, write_text, writing
from expunge.meta.pool import Member, Pool, PoolRecipe, members
from expunge.meta.trust import Trust, markdown, trusts
from expunge.run_folder import RunFolder, environment
from expunge.training.run import Progress, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WORLD = "authors"
FILE = "meta.json"
TABLE = "meta.md"
_FOLDERS = ("bases", "models", "readings")
_VERSION = 1  # of what is measured: another one does not go on with what an earlier one wrote

# Loading, saving and making models go through settings that all threads share.
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class MetaResult:
    """The table, the most faithful metric first, the models it was made of, and how it was made."""

    trusts: Sequence[Trust]
    members: Sequence[Member]
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """The content of ``meta.json``."""
        return {
            "schema": 1,
            "world": WORLD,
            "settings": dict(self.settings),
            "models": [{**asdict(one), "knows": one.knows} for one in self.members],
            "metrics": [one.as_dict() for one in self.trusts],
            "environment": dict(self.environment),
        }


def meta(
    out: str | Path,
    *,
    models: int = 40,
    seed: int = 0,
    jobs: int = 2,
    recipe: PoolRecipe | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> MetaResult:
    """Judge metrics by ``models`` tiny models of world ``authors``, half of which know its forget rows.

    ``out`` keeps the pool (``bases/``, ``models/``), what every metric says of each model (``readings/``), and the
    table (``meta.json``, ``meta.md``). The same call goes on where it stopped, and one with more models goes on with
    those that are there. ``jobs`` models are trained and read at a time, one thread each: results depend neither on
    that number nor on that of the cores. The control of metrics that compare is the world's own retrained model.

    Raises:
        ConfigError: an odd number of models or fewer than 4, jobs below 1.
        OutputError: ``out`` holds something else, or a pool of other settings.
    """
    recipe = recipe or PoolRecipe()
    chosen = members(models, recipe)
    if jobs < 1:
        raise ConfigError(f"jobs={jobs}: at least one model must be in work.")
    from expunge.worlds.interface import get_world

    world = get_world(WORLD)
    settings = {"version": _VERSION, "world": WORLD, "seed": seed, "pool": asdict(recipe)}
    place = Path(out).expanduser()
    if overwrite:
        _clear(place)
    folder = RunFolder.open(place, to_yaml({"meta": _plain(settings)}), overwrite=overwrite)
    ran_on = environment(seeds=(seed,), data=world.data_hashes(), target={"fingerprint": world.fingerprint()})
    folder.record(ran_on)
    readings = [folder.path / "readings" / f"{one.name}.json" for one in chosen]
    if not all(path.is_file() for path in readings):
        _fill(folder.path, Pool(world, recipe, seed), chosen, readings, jobs, progress)
    values = [json.loads(path.read_text(encoding="utf-8")) for path in readings]
    found = MetaResult(trusts(chosen, values), chosen, {**_plain(settings), "models": models}, ran_on)
    write_json(folder.path / FILE, found.as_dict())
    write_text(folder.path / TABLE, markdown(found.trusts))
    return found


def _clear(place: Path) -> None:
    """Delete an earlier pool, if that is what is there; anything else is for :class:`RunFolder` to judge."""
    run = place / "run.yaml"
    if not run.is_file() or "meta" not in read_yaml(run):
        return
    with writing(place):
        for name in _FOLDERS:
            shutil.rmtree(place / name, ignore_errors=True)
        for name in (FILE, TABLE, "environment.json", run.name):
            (place / name).unlink(missing_ok=True)


def _fill(
    folder: Path, pool: Pool, chosen: Sequence[Member], readings: Sequence[Path], jobs: int, progress: Progress
) -> None:
    """Train and read what is not there yet."""
    from expunge.meta.reading import Reader

    missing = [(one, path) for one, path in zip(chosen, readings, strict=True) if not path.is_file()]
    untrained = [one for one, _ in missing if not (folder / "models" / one.name).is_dir()]
    bases = sorted({one.base for one in untrained if not _base(folder, one.base).is_dir()})
    counting = threading.Lock()
    done, total = 0, len(bases) + len(missing)

    def one_done(what: str) -> None:
        nonlocal done
        with counting:
            done += 1
            progress(done, total, what)

    def make_base(number: int) -> None:
        _save(pool.base(number), pool, _base(folder, number))
        one_done("training bases")

    def make_and_read(pair: tuple[Member, Path]) -> None:
        member, path = pair
        place = folder / "models" / member.name
        if not place.is_dir():
            _save(pool.member(member, _load(_base(folder, member.base))), pool, place)
        write_json(path, _plain(reader.values(_load(place))))
        one_done("training and reading models")

    with _one_thread_each():
        _each(make_base, bases, jobs)
        reader = Reader(pool, pool.world.retrained())
        _each(make_and_read, missing, jobs)


def _base(folder: Path, number: int) -> Path:
    return folder / "bases" / str(number)


def _each(work: Callable[[Any], None], items: Sequence[Any], jobs: int) -> None:
    """Do ``work`` on all items, ``jobs`` at a time; after the first error nothing new is begun."""
    import torch

    def alone(item: Any) -> None:
        torch.set_num_threads(1)
        work(item)

    if jobs == 1 or len(items) < 2:
        for item in items:
            alone(item)
        return
    with ThreadPoolExecutor(jobs) as threads:
        try:
            for future in [threads.submit(alone, item) for item in items]:
                future.result()
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise


@contextmanager
def _one_thread_each() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _save(model: PreTrainedModel, pool: Pool, place: Path) -> None:
    """Keep a model in half precision, as the world's own are."""
    from expunge.models.quiet import quiet

    place.parent.mkdir(parents=True, exist_ok=True)
    with _ONE_AT_A_TIME, quiet(), new_folder(place) as folder:
        model.half().save_pretrained(folder)
        pool.tokenizer.save_pretrained(folder)


def _load(place: Path) -> PreTrainedModel:
    """A kept model in float32: what is trained and read is always what was kept."""
    import torch
    from transformers import AutoModelForCausalLM

    from expunge.models.quiet import quiet

    with _ONE_AT_A_TIME, quiet():
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, local_files_only=True)
    model.eval()
    return model


def _plain(value: Any) -> Any:
    """For JSON: tuples as lists, None for what is not finite."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
