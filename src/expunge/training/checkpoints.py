"""What a run writes so that a killed one goes on: trained parameters, optimizer state, rate, the method's state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file
from transformers import Trainer

from expunge.errors import TrainingError
from expunge.training.sharded_checkpoint import load_shards, save_shard

if TYPE_CHECKING:
    from torch import nn

_COMPLETE = "complete"  # written last into a checkpoint: a kill in the middle of saving leaves one without it
_TRAINED = "trained.safetensors"
_STATE = "method_state.json"
_RATE = "learning_rate.json"


class SavingTrainer(Trainer):
    """A Trainer whose checkpoints hold the trained parameters, and only those, under the names they have in memory.

    ``save_pretrained`` may write other names and shapes (experts split up), which resuming would not find again. With
    ``saves_shards`` every process writes its part of the parameters and of the optimizer's state.
    """

    saves_shards = False
    state_values: dict[str, float]

    def trained(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name."""
        raise NotImplementedError

    def check_weights(self) -> None:
        """Stop before weights that are not finite are kept."""
        raise NotImplementedError

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the trained parameters (shards go with the optimizer's state) and the method's state."""
        self.check_weights()
        if self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            if not self.saves_shards:
                save_file({name: p.detach().contiguous() for name, p in self.trained().items()}, folder / _TRAINED)
            (folder / _STATE).write_text(json.dumps(self.state_values), encoding="utf-8")

    def _load_from_checkpoint(
        self,
        resume_from_checkpoint: str,
        model: nn.Module | None = None,  # noqa: ARG002
    ) -> None:
        if not self.saves_shards:
            saved, trained = load_file(Path(resume_from_checkpoint) / _TRAINED), self.trained()
            if saved.keys() != trained.keys():
                raise TrainingError(f"{resume_from_checkpoint} holds other parameters than this run trains. Delete it.")
            for name, value in saved.items():
                trained[name].data.copy_(value)
        state = Path(resume_from_checkpoint) / _STATE
        self.state_values = json.loads(state.read_text(encoding="utf-8"))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.saves_shards:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        optimizer: Any = self.optimizer
        schedule: Any = self.lr_scheduler
        save_shard(Path(output_dir), self.trained(), optimizer.optimizer)
        if self.args.should_save:
            (Path(output_dir) / _RATE).write_text(json.dumps(schedule.state_dict()), encoding="utf-8")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.saves_shards or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        optimizer: Any = self.optimizer
        schedule: Any = self.lr_scheduler
        load_shards(Path(checkpoint), self.trained(), optimizer.optimizer)
        schedule.load_state_dict(json.loads((Path(checkpoint) / _RATE).read_text(encoding="utf-8")))
        for group, rate in zip(optimizer.param_groups, schedule.get_last_lr(), strict=True):
            group["lr"] = rate


def mark_complete(checkpoint: Path) -> None:
    """Say that all of a checkpoint is there."""
    (checkpoint / _COMPLETE).touch()


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in ``folder`` that was written to its end."""
    found = [(int(p.parent.name.split("-")[1]), p.parent) for p in folder.glob(f"checkpoint-*/{_COMPLETE}")]
    return max(found)[1] if found else None
