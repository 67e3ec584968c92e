"""Settings that make a training run smaller, to be tried one by one where it does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from expunge.training.optimizers import state_size

if TYPE_CHECKING:
    from expunge.training.plan import Machine, Model, Sizes
    from expunge.training.settings import TrainingSettings


@dataclass(frozen=True)
class Variant:
    """A changed run; ``shown`` are the changed settings as a user writes them."""

    shown: tuple[str, ...]
    settings: TrainingSettings
    model: Model
    machine: Machine


def variants(settings: TrainingSettings, model: Model, sizes: Sizes, machine: Machine) -> Iterator[Variant]:
    """The run with one thing changed at a time, whatever that changes about it."""

    def changed(*shown: str, to: Model = model, **values: Any) -> Variant:
        return Variant(shown, settings.model_copy(update=values), to, machine)

    full, gpu = settings.parameters == "full", machine.device != "cpu"
    lora = ("training.parameters=lora",) if full else ()
    if full:
        yield changed(*lora, parameters="lora")
    if model.quantization != "nf4":
        yield changed(*lora, "model.quantization=nf4", to=replace(model, quantization="nf4"), parameters="lora")
    if state_size(settings.optimizer).value > 4:
        yield changed("training.optimizer=adamw_bnb_8bit", optimizer="adamw_bnb_8bit")
    if not settings.gradient_checkpointing:
        yield changed("training.gradient_checkpointing=true", gradient_checkpointing=True)
    if settings.forget_batch > 1 or settings.retain_batch > 1:
        values = {name: max(1, getattr(settings, name) // 4) for name in ("forget_batch", "retain_batch")}
        values["accumulation"] = settings.accumulation * 4
        yield changed(*(f"training.{name}={value}" for name, value in values.items()), **values)
    last = sizes.last_layers()
    if full and last and not settings.layers:
        yield changed(f"training.layers={_short(last)}", layers=last)
    if settings.reference == "resident":
        yield changed("training.reference=cached", reference="cached")
    if model.number > 2 and model.quantization == "none" and (machine.autocast or not gpu):
        yield changed("model.dtype=bfloat16", to=replace(model, number=2))
    if gpu and settings.sharding == "none" and model.quantization == "none" and _can_be_sharded(settings):
        shown = ("torchrun --nproc-per-node=2", "training.sharding=full")
        yield replace(changed(*shown, sharding="full"), machine=replace(machine, processes=2))


def _can_be_sharded(settings: TrainingSettings) -> bool:
    from expunge.training.sharding import OPTIMIZERS

    return settings.optimizer in OPTIMIZERS and settings.reference == "cached"


def _short(patterns: tuple[str, ...]) -> str:
    return str(list(patterns)) if len(patterns) <= 2 else f"['{patterns[0]}', .., '{patterns[-1]}']"
