"""The one training loop: transformers' Trainer over a schedule laid out in advance, with a method's loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, TrainerCallback, TrainingArguments
from transformers.trainer_utils import SchedulerType

from expunge.data.batches import collate
from expunge.data.encode import Example
from expunge.distributed import barrier, gather
from expunge.errors import TrainingError
from expunge.models.halves import Forward, Halves
from expunge.training.body_passes import passes, states_in_passes
from expunge.training.checkpoints import SavingTrainer, last_checkpoint, mark_complete
from expunge.training.frozen import FrozenTarget
from expunge.training.packing import pack
from expunge.training.rows import Rows
from expunge.training.run import History, Progress
from expunge.training.schedule import Micro, Schedule, rate_factor
from expunge.training.scoring import SIDES, Batched, Layout, Reference, most_tokens, score_answers, score_states
from expunge.training.sharding import is_sharded, own_part, whole
from expunge.training.step import Totals

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from expunge.methods.weight_method import WeightMethod

_LISTED = 10


class _Micros(Dataset[Micro]):
    def __init__(self, micros: Sequence[Micro]) -> None:
        self.micros = micros

    def __len__(self) -> int:
        return len(self.micros)

    def __getitem__(self, index: int) -> Micro:
        return self.micros[index]


class UnlearningTrainer(SavingTrainer):
    """Runs ``schedule`` once through, one :class:`Micro` a forward, forget and retain rows in one batch.

    The loss of an accumulated batch is exact whatever its split: every mean divides by the counts of the whole batch,
    taken before its first forward.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *,
        model: PreTrainedModel,
        bare: PreTrainedModel,
        args: TrainingArguments,
        method: WeightMethod,
        schedule: Schedule,
        rows: Rows,
        target: FrozenTarget | None,
        layers: Sequence[nn.Module],
        labels: Callable[[Micro], list[str]],
        pad_id: int,
        packing: bool,
        autocast: bool,
        shards: bool,
        history: History,
        progress: Progress,
        scorer: Callable[[], dict[str, float]] | None,
        score_every: int | None,
    ) -> None:
        self.method, self.schedule, self.history = method, schedule, history
        self.state_values = method.initial_state()
        self._halves, self._rows, self._target, self._layers = Halves(bare), rows, target, list(layers)
        self._most_tokens = most_tokens(bare.device, self._halves.vocabulary)
        self._pad_id, self._row_labels, self._packing = pad_id, labels, packing
        # accelerate sees to this, but for a model that it does not wrap
        self._autocast: AbstractContextManager[Any] = (
            torch.autocast(bare.device.type, torch.bfloat16) if autocast and is_sharded(bare) else nullcontext()
        )
        self.saves_shards = shards
        self._terms: dict[str, torch.Tensor] = {}
        self._step_terms: dict[str, torch.Tensor] = {}
        self._loss_terms: dict[str, Any] = {}
        self._steps_in_terms = 0
        self._micros_seen: list[Micro] = []
        self._micros_of_step: list[Micro] = []
        processes = args.world_size
        super().__init__(
            model=model,
            args=args,
            train_dataset=_Micros(schedule.micros(args.process_index, processes)),
            data_collator=self._collate,
            # Older releases scale by the accumulation unless a loss function is given; compute_loss below is what runs.
            compute_loss_func=lambda *_, **__: None,
            callbacks=[_Watch(self, progress, scorer, score_every)],
        )
        self.remove_callback(PrinterCallback)
        if is_sharded(bare):
            clip = self.accelerator.clip_grad_norm_
            self.accelerator.clip_grad_norm_ = lambda *given, **named: whole(clip(*given, **named))

    def get_train_dataloader(self) -> DataLoader[Any]:
        """This process's share of the schedule in its own order: it was shuffled and dealt when it was laid out."""
        return DataLoader(
            self.train_dataset,  # type: ignore[arg-type]
            batch_size=1,
            shuffle=False,
            collate_fn=self._collate,
            pin_memory=False,
        )

    def _collate(self, micros: Sequence[Micro]) -> dict[str, Any]:
        (micro,) = micros
        examples, layout = self._rows.batch(micro, self.method)
        rows = examples or [self._rows.any]
        if self._packing:
            inputs, answers = pack(rows)
        else:
            batch = collate(rows, self._pad_id)
            inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
            answers = batch.answer_mask
        return {
            "inputs": inputs,
            "answers": answers,
            "examples": examples,
            "layout": layout,
            "micro": micro,
        }

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor]:
        """The forwards of one optimizer step and, over all processes, answer tokens, rows and taught tokens of each
        side [9] (handed on as ``num_items_in_batch``)."""
        samples = [sample for _, sample in zip(range(num_batches), epoch_iterator, strict=False)]
        counts = torch.zeros(len(SIDES), 3)
        for sample in samples:
            layout: Layout = sample["layout"]
            for side in range(len(SIDES)):
                begin, end = layout.rows_of(side)
                some = [sum(layout.lengths[begin:end]), end - begin, sum(layout.taught[begin:end])]
                counts[side] += torch.tensor(some)
        totals = self.accelerator.reduce(counts.flatten().to(device), reduction="sum")
        return samples, totals

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """One forward and backward; a forward without rows does nothing, unless other processes wait for it."""
        if not inputs["examples"] and self.accelerator.num_processes == 1:
            return torch.zeros((), device=self.args.device)
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        return loss

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
        given, answers = inputs["inputs"], inputs["answers"]
        examples, layout = inputs["examples"], inputs["layout"]
        totals = num_items_in_batch.clamp(min=1).view(len(SIDES), 3)
        batched = Batched(
            method=self.method,
            layout=layout,
            labels=given["input_ids"][:, 1:][answers[:, 1:]],
            totals={name: Totals(*totals[side]) for side, name in enumerate(SIDES)},
            reference=self._reference(inputs["micro"], examples, layout, answers.device),
            state=self.state_values,
            most_tokens=self._most_tokens,
        )
        worth = self.schedule.worth if self.accelerator.num_processes == 1 and not self._packing else None
        groups = passes([len(example.input_ids) for example in examples], worth)
        before = torch.zeros_like(answers)
        before[:, :-1] = answers[:, 1:]  # the places that predict the answer tokens

        def score(forward: Forward, given: dict[str, Any]) -> dict[str, Any]:
            if not examples:
                if self.method.reads_layer is not None:
                    unused = self._halves.layer_states(self._layers, self.method.reads_layer, forward, **given).sum()
                else:
                    outside = sum(p.sum() for p in self._halves.outside() if p.requires_grad)
                    unused = self._halves.states(forward, **given).sum() + outside
                return {"loss": 0.0 * unused, "terms": {}, "observed": {}}
            if self.method.reads_layer is None:
                states = states_in_passes(partial(self._halves.states, forward), given, before, groups)
                scored = score_answers(self._halves, states, batched, forward)
            else:
                states = self._halves.layer_states(self._layers, self.method.reads_layer, forward, **given)
                real = given.get("attention_mask")
                states = states.flatten(0, 1) if real is None else states[real.bool()]
                lengths = torch.tensor([len(example.input_ids) for example in examples], device=states.device)
                rows = torch.arange(len(examples), device=states.device).repeat_interleave(lengths)
                scored = score_states(states, batched, rows)
            return {"loss": scored.loss, "terms": scored.terms, "observed": scored.observed}

        with self._autocast:
            found = model(**given, score=score)
        if not found["loss"].requires_grad:
            self._stop_unreached()
        for name, value in {**found["terms"], **found["observed"]}.items():
            for sums in (self._terms, self._step_terms):
                sums[name] = sums[name] + value if name in sums else value
        self._loss_terms.update(found["terms"])
        self._micros_seen.append(inputs["micro"])
        # Data-parallel processes average their gradients; the counts already span all of them.
        return found["loss"] * self.accelerator.num_processes

    def _reference(self, micro: Micro, examples: Sequence[Example], layout: Layout, device: torch.device) -> Reference:
        """What the frozen target, and a teacher, say about the rows of a forward."""
        if not examples:
            return Reference()
        lesson = self._rows.lesson(micro, layout)
        taught = None if lesson is None else lesson.to(device)
        if self._target is None:
            return Reference(taught=taught)
        return replace(self._target.of(examples, layout, collate(examples, self._pad_id).to(device)), taught=taught)

    def after_step(self) -> None:
        """Let the method bring its state up to date after an optimizer step."""
        self._steps_in_terms += 1
        terms, self._step_terms = self._step_terms, {}
        if not self.state_values:
            return
        sums = self._over_processes({name: float(value) for name, value in terms.items()})
        self.state_values = self.method.after_step(self.state_values, sums, epoch=self.epoch)

    def _over_processes(self, shares: dict[str, float]) -> dict[str, float]:
        """Sums over all processes, which may have seen different terms."""
        if self.accelerator.num_processes == 1:
            return shares
        sums: dict[str, float] = {}
        for some in gather([shares]):
            for name, value in some.items():
                sums[name] = sums.get(name, 0.0) + value
        return sums

    def trained(self) -> dict[str, nn.Parameter]:
        """The trained parameters by their names in the model."""
        return {name: p for name, p in self._halves.model.named_parameters() if p.requires_grad}

    def check_weights(self) -> None:
        """Stop before weights that are not finite are kept."""
        found = gather(name for name, p in self.trained().items() if not bool(own_part(p).isfinite().all()))
        bad = list(dict.fromkeys(found))
        if bad:
            raise TrainingError(
                f"{self.method.name}: {len(bad)} parameters are not finite after optimizer step "
                f"{self.state.global_step} of {self.schedule.steps}: {', '.join(bad[:_LISTED])}"
                f"{' ..' if len(bad) > _LISTED else ''}. "
                "Lower training.learning_rate, set training.max_grad_norm, or use training.dtype=float32."
            )

    def check_finite(self) -> None:
        """Stop at a NaN or infinite loss before the optimizer sees its gradient."""
        bad = gather((name, value.item()) for name, value in self._terms.items() if not torch.isfinite(value))
        self._micros_of_step, self._micros_seen = self._micros_seen, []
        if bad:
            self._stop(", ".join(f"{name} is {value}" for name, value in dict(bad).items()), self.state.global_step + 1)

    def _stop(self, what: str, step: int) -> NoReturn:
        """The error that says what is no number any more, at which step, with which rows, and what is still good."""
        rows = gather(label for micro in self._micros_of_step for label in self._row_labels(micro))
        last = last_checkpoint(Path(str(self.args.output_dir)))
        where = f"The last good checkpoint is {last.name}." if last else "There is no checkpoint yet."
        raise TrainingError(
            f"{self.method.name}: {what} at optimizer step {step} of {self.schedule.steps}, rows "
            f"{', '.join(rows[:_LISTED])}{' ..' if len(rows) > _LISTED else ''}. {where} "
            "Lower training.learning_rate, set training.max_grad_norm, or use training.dtype=float32."
        )

    def _stop_unreached(self) -> NoReturn:
        names = list(self.trained())
        raise TrainingError(
            f"the loss of {self.method.name} depends on none of the {len(names)} trained parameters: "
            f"{', '.join(names[:_LISTED])}{' ..' if len(names) > _LISTED else ''}. "
            "Name others with training.layers, or check what cuts these off from the loss."
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
            shares = {name: value.item() / steps for name, value in self._terms.items()}
            terms = self._over_processes(shares)
            in_loss = set(gather(self._loss_terms))  # a process may have had no rows so far
            loss = sum(value for name, value in terms.items() if name in in_loss)
            line |= {"loss": loss, **terms, **self.state_values}
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
        self.trainer.after_step()
        self.progress(state.global_step, state.max_steps, "training")
        if self.every and (state.global_step % self.every == 0 or state.global_step == state.max_steps):
            self._score(state)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        barrier()  # every process has written what is its own
        if state.is_world_process_zero:
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def _score(self, state: Any) -> None:
        if self.scorer is not None and self.every:
            self.trainer.history.add({"step": state.global_step, "epoch": self.trainer.epoch, "scores": self.scorer()})
