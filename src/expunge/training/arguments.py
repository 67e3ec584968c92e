"""Training settings as the Trainer's arguments."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainingArguments

if TYPE_CHECKING:
    from expunge.training.schedule import Schedule
    from expunge.training.settings import TrainingSettings

_LOG_LINES = 500


def training_arguments(
    settings: TrainingSettings, schedule: Schedule, folder: Path, *, on_cpu: bool, keep: bool, processes: int = 1
) -> TrainingArguments:
    """The Trainer's arguments for ``settings``; ``keep`` says whether checkpoints are written."""
    every = settings.checkpoint_every or max(1, math.ceil(schedule.steps_per_epoch))
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=schedule.forwards(processes),
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
        ddp_find_unused_parameters=False,  # a parameter without a gradient is an error here
        remove_unused_columns=False,
        dataloader_pin_memory=not on_cpu,
    )
    if args.n_gpu > 1:
        args._n_gpu = 1  # several GPUs in one process would wrap the model in DataParallel; use torchrun for them
    if args.device == torch.device(
        "cpu", 0
    ):  # what several processes get; torch cannot load an optimizer's state to it
        args.__dict__["_setup_devices"] = torch.device("cpu")
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
