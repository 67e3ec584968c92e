"""The one training loop: transformers' Trainer over a schedule laid out in advance, with a method's loss."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from expunge.data.batches import Batch, collate
from expunge.data.encode import Example
from expunge.errors import ConfigError, TrainingError, did_you_mean
from expunge.models.logprobs import answer_logprobs
from expunge.training.run import History, Progress
from expunge.training.schedule import Micro, Schedule, rate_factor
from expunge.training.step import Side, Step, Totals

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from expunge.methods.weight_method import WeightMethod
    from expunge.training.settings import TrainingSettings

_COMPLETE = "complete"  # written last into a checkpoint: a kill in the middle of saving leaves one without it
_TRAINED = "trained.safetensors"
_LOG_LINES = 500
_LISTED = 10


class _Micros(Dataset[Micro]):
    def __init__(self, micros: Sequence[Micro]) -> None:
        self.micros = micros

    def __len__(self) -> int:
        return len(self.micros)

    def __getitem__(self, index: int) -> Micro:
        return self.micros[index]


class UnlearningTrainer(Trainer):
    """Runs ``schedule`` once through, one :class:`Micro` a forward, forget and retain rows in one batch.

    The loss of an accumulated batch is exact whatever its split: every mean divides by the counts of the whole batch,
    taken before its first forward.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *,
        model: PreTrainedModel,
        args: TrainingArguments,
        method: WeightMethod,
        schedule: Schedule,
        forget: Sequence[Example],
        retain: Sequence[Example],
        labels: Callable[[Micro], list[str]],
        reference: torch.Tensor | None,
        pad_id: int,
        history: History,
        progress: Progress,
        scorer: Callable[[], dict[str, float]] | None,
        score_every: int | None,
    ) -> None:
        self.method, self.schedule, self.history = method, schedule, history
        self._forget, self._retain, self._reference = forget, retain, reference
        self._pad_id, self._row_labels = pad_id, labels
        self._terms: dict[str, torch.Tensor] = {}
        self._steps_in_terms = 0
        self._micros_seen: list[Micro] = []
        self._micros_of_step: list[Micro] = []
        super().__init__(
            model=model,
            args=args,
            train_dataset=_Micros(schedule.micros),
            data_collator=self._collate,
            # Older releases scale by the accumulation unless a loss function is given; compute_loss below is what runs.
            compute_loss_func=lambda *_, **__: None,
            callbacks=[_Watch(self, progress, scorer, score_every)],
        )
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The schedule in its own order: it was shuffled when it was laid out."""
        loader: DataLoader[Any] = DataLoader(
            self.train_dataset,  # type: ignore[arg-type]
            batch_size=1,
            shuffle=False,
            collate_fn=self._collate,
            pin_memory=self.args.dataloader_pin_memory,
        )
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

    def _collate(self, micros: Sequence[Micro]) -> dict[str, Any]:
        (micro,) = micros
        forget = micro.forget if self.method.uses_forget else ()
        retain = micro.retain if self.method.uses_retain else ()
        batch = collate([*(self._forget[i] for i in forget), *(self._retain[i] for i in retain)], self._pad_id)
        inputs: dict[str, Any] = {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "answer_mask": batch.answer_mask,
            "forget_rows": torch.tensor(forget, dtype=torch.long),
            "retain_rows": torch.tensor(retain, dtype=torch.long),
        }
        return inputs

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor]:
        """The forwards of one optimizer step and, over all processes, their forget tokens, forget rows, retain tokens
        and retain rows [4] (handed on as ``num_items_in_batch``)."""
        samples = [sample for _, sample in zip(range(num_batches), epoch_iterator, strict=False)]
        counts = torch.zeros(4, dtype=torch.float64, device="cpu")
        for sample in samples:
            forget = len(sample["forget_rows"])
            tokens = sample["answer_mask"].sum(-1).cpu()
            counts += torch.tensor([tokens[:forget].sum(), forget, tokens[forget:].sum(), len(tokens) - forget])
        totals = self.accelerator.reduce(counts.float().to(device), reduction="sum")
        return samples, totals

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,  # noqa: ARG002
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The method's loss of one forward, as its share of the whole accumulated batch."""
        if not isinstance(num_items_in_batch, torch.Tensor):
            raise TrainingError("the Trainer passed no counts; this release of transformers is not supported.")
        batch = Batch(inputs["input_ids"], inputs["attention_mask"], inputs["answer_mask"])
        scored = answer_logprobs(model, batch, hits=False, head_of=self.accelerator.unwrap_model(model))
        forget_rows, retain_rows = inputs["forget_rows"], inputs["retain_rows"]
        first = len(forget_rows)
        is_forget = scored.rows < first
        reference = None
        if self._reference is not None:
            reference = self._reference[forget_rows.cpu()].to(scored.logps.device)
        tokens_f, rows_f, tokens_r, rows_r = num_items_in_batch.clamp(min=1)
        step = Step(
            Side(scored.logps[is_forget], scored.rows[is_forget], first, Totals(tokens_f, rows_f), reference),
            Side(
                scored.logps[~is_forget],
                scored.rows[~is_forget] - first,
                len(retain_rows),
                Totals(tokens_r, rows_r),
            ),
        )
        terms = self.method.loss(step)
        for name, value in terms.items():
            self._terms[name] = self._terms.get(name, torch.zeros_like(value)) + value.detach()
        self._micros_seen.append(Micro(tuple(forget_rows.tolist()), tuple(retain_rows.tolist())))
        # Data-parallel processes average their gradients; the counts already span all of them.
        return torch.stack(list(terms.values())).sum() * self.accelerator.num_processes

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the trained parameters, and only those, under the names they have in memory.

        ``save_pretrained`` may write other names and shapes (experts split up), which resuming would not find again.
        """
        if self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
            return
        self.check_weights()
        if self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            save_file({name: p.detach().contiguous() for name, p in self._trained().items()}, folder / _TRAINED)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        saved, trained = load_file(Path(resume_from_checkpoint) / _TRAINED), self._trained()
        if saved.keys() != trained.keys():
            raise TrainingError(f"{resume_from_checkpoint} holds other parameters than this run trains. Delete it.")
        for name, value in saved.items():
            trained[name].data.copy_(value)

    def _trained(self) -> dict[str, nn.Parameter]:
        bare = self.accelerator.unwrap_model(self.model)
        return {name: p for name, p in bare.named_parameters() if p.requires_grad}

    def check_weights(self) -> None:
        """Stop before weights that are not finite are kept."""
        bad = [name for name, p in self._trained().items() if not bool(torch.isfinite(p).all())]
        if bad:
            raise TrainingError(
                f"{self.method.name}: {len(bad)} parameters are not finite after optimizer step "
                f"{self.state.global_step} of {self.schedule.steps}: {', '.join(bad[:_LISTED])}"
                f"{' ..' if len(bad) > _LISTED else ''}. "
                "Lower training.learning_rate, set training.max_grad_norm, or use training.dtype=float32."
            )

    def check_finite(self) -> None:
        """Stop at a NaN or infinite loss before the optimizer sees its gradient."""
        bad = {name: value.item() for name, value in self._terms.items() if not torch.isfinite(value)}
        self._micros_of_step, self._micros_seen = self._micros_seen, []
        if bad:
            self._stop(", ".join(f"{name} is {value}" for name, value in bad.items()), self.state.global_step + 1)

    def _stop(self, what: str, step: int) -> NoReturn:
        """The error that says what is no number any more, at which step, with which rows, and what is still good."""
        rows = [label for micro in self._micros_of_step for label in self._row_labels(micro)]
        last = last_checkpoint(Path(str(self.args.output_dir)))
        where = f"The last good checkpoint is {last.name}." if last else "There is no checkpoint yet."
        raise TrainingError(
            f"{self.method.name}: {what} at optimizer step {step} of {self.schedule.steps}, rows "
            f"{', '.join(rows[:_LISTED])}{' ..' if len(rows) > _LISTED else ''}. {where} "
            "Lower training.learning_rate, set training.max_grad_norm, or use training.dtype=float32."
        )

    def check_gradients(self) -> None:
        """Every trainable parameter must take part in the loss."""
        without = [n for n, p in self.model.named_parameters() if p.requires_grad and p.grad is None]  # type: ignore[union-attr]
        if without:
            raise TrainingError(
                f"{len(without)} trainable parameters got no gradient from {self.method.name}: "
                f"{', '.join(without[:_LISTED])}{' ..' if len(without) > _LISTED else ''}. "
                "Leave them out with training.layers, or check what cuts them off from the loss."
            )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write the line to the run's history, the loss split into its terms."""
        if "loss" in logs:
            steps = max(1, self._steps_in_terms)
            line: dict[str, Any] = {"step": self.state.global_step, "epoch": self.epoch}
            terms = {name: value.item() / steps for name, value in self._terms.items()}
            line |= {"loss": sum(terms.values()), **terms}
            line["learning_rate"] = logs.get("learning_rate")
            norm = logs.get("grad_norm")
            line["grad_norm"] = None if norm is None else float(norm)
            if norm is not None and not math.isfinite(norm):
                self._stop(f"the gradient norm is {norm}", self.state.global_step)
            self.history.add(line)
            self._terms.clear()
            self._steps_in_terms = 0
        super().log(logs, start_time)

    @property
    def epoch(self) -> float:
        """Passes over the lead rows so far (the Trainer's own epoch is the whole schedule)."""
        return self.schedule.epoch(self.state.global_step)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """The learning rate by :func:`~expunge.training.schedule.rate_factor`; the Trainer's own starts at 0, which
        loses the first step."""
        if self.lr_scheduler is None:
            warmup = self.args.get_warmup_steps(num_training_steps)
            shape = SchedulerType(self.args.lr_scheduler_type).value
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer,  # type: ignore[arg-type]
                lambda step: rate_factor(min(step, num_training_steps - 1), num_training_steps, warmup, shape),
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler


class _Watch(TrainerCallback):
    """Checks, progress and scores between the Trainer's steps."""

    def __init__(
        self,
        trainer: UnlearningTrainer,
        progress: Progress,
        scorer: Callable[[], dict[str, float]] | None,
        score_every: int | None,
    ) -> None:
        self.trainer, self.progress, self.scorer, self.every = trainer, progress, scorer, score_every
        self.gradients_checked = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self.trainer.history.resume_at(state.global_step)
        if state.global_step == 0:
            self._score(state)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self.trainer.check_finite()
        if not self.gradients_checked:
            self.trainer.check_gradients()
            self.gradients_checked = True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self.trainer._steps_in_terms += 1
        self.progress(state.global_step, state.max_steps, "training")
        if self.every and (state.global_step % self.every == 0 or state.global_step == state.max_steps):
            self._score(state)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / _COMPLETE).touch()

    def _score(self, state: Any) -> None:
        if self.scorer is not None and self.every:
            self.trainer.history.add({"step": state.global_step, "epoch": self.trainer.epoch, "scores": self.scorer()})


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in ``folder`` that was written to its end."""
    found = [(int(p.parent.name.split("-")[1]), p.parent) for p in folder.glob(f"checkpoint-*/{_COMPLETE}")]
    return max(found)[1] if found else None


def check_optimizer(settings: TrainingSettings) -> None:
    """Refuse an optimizer that transformers does not know."""
    optimizers = [str(name.value) for name in OptimizerNames]
    if settings.optimizer not in optimizers:
        raise ConfigError(
            f"training.optimizer={settings.optimizer!r}: transformers has no such optimizer. "
            f"{did_you_mean(settings.optimizer, optimizers)}"
        )


def training_arguments(
    settings: TrainingSettings, schedule: Schedule, folder: Path, *, on_cpu: bool, keep: bool
) -> TrainingArguments:
    """The Trainer's arguments for ``settings``; ``keep`` says whether checkpoints are written."""
    check_optimizer(settings)
    every = settings.checkpoint_every or max(1, math.ceil(schedule.steps_per_epoch))
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=schedule.accumulation,
        num_train_epochs=1,
        learning_rate=settings.rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=math.ceil(round(settings.warmup_epochs * schedule.steps_per_epoch, 6)),  # 0.07 * 100 is 7
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optim=settings.optimizer,
        seed=settings.seed,
        data_seed=settings.seed,
        bf16=uses_bfloat16(settings, on_cpu=on_cpu),
        use_cpu=on_cpu,
        **_checkpointing(settings.gradient_checkpointing),
        logging_strategy="steps",
        logging_steps=max(1, schedule.steps // _LOG_LINES),
        logging_nan_inf_filter=False,
        save_strategy="steps" if keep else "no",
        save_steps=every,
        save_total_limit=2,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=not on_cpu,
    )
    if args.n_gpu > 1:
        args._n_gpu = 1  # several GPUs in one process would wrap the model in DataParallel; use torchrun for them
    return args


def _checkpointing(wanted: bool) -> dict[str, Any]:
    if not wanted:
        return {}
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    # transformers 5.23 renamed the setting
    name = "activation_checkpointing" if "activation_checkpointing" in fields else "gradient_checkpointing"
    return {name: True, f"{name}_kwargs": {"use_reentrant": False}}


def uses_bfloat16(settings: TrainingSettings, *, on_cpu: bool) -> bool:
    """Whether forwards run under bfloat16 autocast (the trained weights themselves are float32)."""
    if settings.dtype == "auto":
        return not on_cpu and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return settings.dtype == "bfloat16"
