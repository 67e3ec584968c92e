"""Making the models of a pool in a folder and asking them, several at a time; what is there is not made again."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.audits.running import FILE as AUDITS
from expunge.files import new_folder, write_json
from expunge.meta.auditing import Auditor, references
from expunge.meta.pool import Member, Pool
from expunge.training.run import Progress, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FOLDERS = ("bases", "models", "readings", "audits")

# Loading, saving and making models go through settings that all threads share.
_ONE_AT_A_TIME = threading.Lock()


class PoolFolder:
    """A pool of models that is kept in ``folder``: ``chosen`` are its members, ``audits`` what is to look at them."""

    def __init__(self, folder: Path, pool: Pool, chosen: Sequence[Member], audits: Sequence[str] = ()) -> None:
        self.folder, self.pool, self.chosen, self.audits = folder, pool, chosen, audits

    def readings(self) -> list[dict[str, Any]]:
        """What every metric says of each member."""
        return [_json(self._reading(one)) for one in self.chosen]

    def findings(self) -> list[dict[str, Any]]:
        """The content of ``audits.json`` of each member."""
        return [_json(self._audits(one)) for one in self.chosen]

    def fill(self, jobs: int, progress: Progress = silent) -> None:
        """Train, read and audit what is not there yet, ``jobs`` models at a time."""
        from expunge.meta.reading import Reader

        unread = [one for one in self.chosen if not self._reading(one).is_file()]
        unaudited = [one for one in self.chosen if not self._audited(one)]
        beside = {one.base: references(one.base, max(self.pool.recipe.epochs)) for one in unaudited}
        wanted = dict.fromkeys([*unread, *unaudited, *(one for pair in beside.values() for one in pair)])
        untrained = [one for one in wanted if not self._model(one).is_dir()]
        bases = [n for n in sorted({one.base for one in untrained}) if not self._base(n).is_dir()]
        steps: list[tuple[str, Callable[[Any], None], Sequence[Any]]] = [
            ("training bases", lambda number: _save(self.pool.base(number), self.pool, self._base(number)), bases),
            ("training models", self._train, untrained),
        ]
        with _one_thread_each():
            if unread:
                reader = Reader(self.pool, self.pool.world.retrained())
                steps.append(
                    (
                        "reading models",
                        lambda one: write_json(self._reading(one), finite(reader.values(_load(self._model(one))))),
                        unread,
                    )
                )
            if unaudited:
                auditor = Auditor(self.pool, self.audits)

                def look(one: Member) -> None:
                    target, control = (_load(self._model(other)) for other in beside[one.base])
                    auditor.look(_load(self._model(one)), target, control, self._audits(one).parent)

                steps.append(("auditing models", look, unaudited))
            _run(steps, jobs, progress)

    def _train(self, member: Member) -> None:
        _save(self.pool.member(member, _load(self._base(member.base))), self.pool, self._model(member))

    def _audited(self, member: Member) -> bool:
        if not self.audits:
            return True
        if not self._audits(member).is_file():
            return False
        found = _json(self._audits(member))
        return all(name in found["audits"] or name in found["left_out"] for name in self.audits)

    def _base(self, number: int) -> Path:
        return self.folder / "bases" / str(number)

    def _model(self, member: Member) -> Path:
        return self.folder / "models" / member.name

    def _reading(self, member: Member) -> Path:
        return self.folder / "readings" / f"{member.name}.json"

    def _audits(self, member: Member) -> Path:
        return self.folder / "audits" / member.name / AUDITS


def finite(value: Any) -> Any:
    """For JSON: tuples as lists, None for what is not finite."""
    if isinstance(value, Mapping):
        return {str(key): finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _run(steps: Sequence[tuple[str, Callable[[Any], None], Sequence[Any]]], jobs: int, progress: Progress) -> None:
    """One step after the other, ``jobs`` of its items at a time."""
    counting = threading.Lock()
    done, total = 0, sum(len(items) for _, _, items in steps)

    def counted(work: Callable[[Any], None], item: Any, what: str) -> None:
        nonlocal done
        work(item)
        with counting:
            done += 1
            progress(done, total, what)

    for what, work, items in steps:
        _each(lambda item, work=work, what=what: counted(work, item, what), items, jobs)  # type: ignore[misc]


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


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
