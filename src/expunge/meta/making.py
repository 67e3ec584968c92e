"""Making one model of a pool after the other in a folder and asking it: everything that is made is a file there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from expunge.audits.running import FILE as AUDITS
from expunge.errors import OutputError
from expunge.files import for_json, new_folder, write_json
from expunge.meta.auditing import Auditor, references
from expunge.meta.pool import Member, Pool, PoolRecipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from expunge.meta.reading import Reader

FOLDERS = ("bases", "models", "readings", "audits")

Step = Literal["base", "model", "reading", "audits"]


class Maker:
    """Makes what a pool on ``world`` consists of in ``folder``; ``audits`` are the audits that look at its models."""

    def __init__(
        self, folder: str | Path, world: str, recipe: PoolRecipe, seed: int, audits: Sequence[str] = ()
    ) -> None:
        self.folder, self.world, self.recipe, self.seed, self.audits = Path(folder), world, recipe, seed, tuple(audits)

    @cached_property
    def pool(self) -> Pool:
        from expunge.worlds.interface import get_world

        return Pool(get_world(self.world), self.recipe, self.seed)

    @cached_property
    def _reader(self) -> Reader:
        from expunge.meta.reading import Reader

        return Reader(self.pool, self.pool.world.retrained())

    @cached_property
    def _auditor(self) -> Auditor:
        return Auditor(self.pool, self.audits)

    def path(self, step: Step, member: Member) -> Path:
        """Where a step's result is kept."""
        return {
            "base": self.folder / "bases" / str(member.base),
            "model": self.folder / "models" / member.name,
            "reading": self.folder / "readings" / f"{member.name}.json",
            "audits": self.folder / "audits" / member.name / AUDITS,
        }[step]

    def make(self, step: Step, member: Member) -> None:
        """Do one step: train the base of ``member``, train itself, read it by every metric, or audit it. What a step
        takes must be there."""
        path = self.path(step, member)
        if step == "base":
            self._save(self.pool.base(member.base), path)
        elif step == "model":
            self._save(self.pool.member(member, self._load("base", member)), path)
        elif step == "reading":
            write_json(path, for_json(self._reader.values(self._load("model", member))))
        else:
            target, control = (self._load("model", one) for one in self.beside(member))
            self._auditor.look(self._load("model", member), target, control, path.parent)

    def beside(self, member: Member) -> tuple[Member, Member]:
        """The target and the control beside which a member is audited."""
        return references(member.base, max(self.recipe.epochs))

    def is_there(self, step: Step, member: Member) -> bool:
        """Whether a step's result is kept; of the audits, whether each of them has looked or was left out."""
        path = self.path(step, member)
        if step != "audits":
            return path.exists()
        found = read_json(path) if path.is_file() else {"audits": {}, "left_out": {}}
        return all(name in found["audits"] or name in found["left_out"] for name in self.audits)

    def _save(self, model: PreTrainedModel, place: Path) -> None:
        """Keep a model in half precision, as the world's own are."""
        from expunge.models.quiet import quiet

        place.parent.mkdir(parents=True, exist_ok=True)
        with quiet(), new_folder(place) as folder:
            model.half().save_pretrained(folder)
            self.pool.tokenizer.save_pretrained(folder)

    def _load(self, step: Step, member: Member) -> PreTrainedModel:
        """A kept model in float32: what is trained and read is always what was kept."""
        import torch
        from transformers import AutoModelForCausalLM

        from expunge.models.quiet import quiet

        place = self.path(step, member)
        with quiet():
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
                place, dtype=torch.float32, local_files_only=True
            )
        model.eval()
        return model


def read_json(path: Path) -> dict[str, Any]:
    """A file's mapping.

    Raises:
        OutputError: it holds none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: cannot be read ({error}). Delete it; the same command makes it again.") from None
    if not isinstance(found, dict):
        raise OutputError(f"{path}: holds no mapping. Delete it; the same command makes it again.")
    return found
