"""Settings that make a training run smaller, to be tried one by one, or one after the other, where it does not fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from expunge.extras import installed
from expunge.training.optimizers import state_size

if TYPE_CHECKING:
    from expunge.training.plan import Machine, Model, Sizes
    from expunge.training.settings import TrainingSettings


LAUNCHER = "torchrun --nproc-per-node=2"
_WORTH = 0.02  # a change that saves less of the peak than this is not named
_DIGIT = re.compile(r"\d\.\*$")


@dataclass(frozen=True)
class Change:
    """Settings that would lower the peak, by how many bytes, whether the run would then fit, and what they need that is
    not installed."""

    settings: tuple[str, ...]
    saves: int
    fits: bool
    needs: str = ""


@dataclass(frozen=True)
class Peaks:
    """What a run takes at most, in bytes, and whether there is room: on the device, and in host memory beside a GPU."""

    device: int
    host: int
    on_device: bool
    on_host: bool


@dataclass(frozen=True)
class Variant:
    """A changed run; ``shown`` are the changed settings as a user writes them, ``needs`` what is not there yet."""

    shown: tuple[str, ...]
    settings: TrainingSettings
    model: Model
    machine: Machine
    needs: str = ""


def variants(settings: TrainingSettings, model: Model, sizes: Sizes, machine: Machine) -> Iterator[Variant]:
    """The run with one thing changed at a time, whatever that changes about it."""

    def changed(*shown: str, to: Model = model, needs: str = "", **values: Any) -> Variant:
        return Variant(shown, settings.model_copy(update=values), to, machine, needs)

    sharded = settings.sharding == "full"  # which neither of what bitsandbytes offers goes with
    bits = "" if installed("bitsandbytes") else "bitsandbytes is not installed: pip install 'expunge[quant]'"
    full, gpu = settings.parameters == "full", machine.device != "cpu"
    lora = ("training.parameters=lora",) if full else ()
    if full:
        yield changed(*lora, parameters="lora")
    if model.quantization != "nf4" and not sharded:
        to = replace(model, quantization="nf4")
        yield changed(*lora, "model.quantization=nf4", to=to, needs=bits, parameters="lora")
    if state_size(settings.optimizer).value > 4 and not sharded:
        yield changed("training.optimizer=adamw_bnb_8bit", needs=bits, optimizer="adamw_bnb_8bit")
    if not settings.gradient_checkpointing:
        yield changed("training.gradient_checkpointing=true", gradient_checkpointing=True)
    if settings.forget_batch > 1 or settings.retain_batch > 1:
        values = {name: max(1, getattr(settings, name) // 4) for name in ("forget_batch", "retain_batch")}
        values["accumulation"] = settings.accumulation * 4
        yield changed(*(f"training.{name}={value}" for name, value in values.items()), **values)
    last = sizes.last_layers()
    if full and last and not settings.layers:
        layers = short_patterns(last)
        yield changed(f"training.layers={list(layers)}", layers=layers)
    if settings.reference == "resident":
        yield changed("training.reference=cached", reference="cached")
    if model.number > 2 and model.quantization == "none" and (machine.autocast or not gpu):
        yield changed("model.dtype=bfloat16", to=replace(model, number=2))
    if gpu and settings.sharding == "none" and model.quantization == "none" and _can_be_sharded(settings):
        shown = (LAUNCHER, "training.sharding=full")
        yield replace(changed(*shown, sharding="full"), machine=replace(machine, processes=2))


def tried(run: Variant, sizes: Sizes, peaks: Callable[[Variant], Peaks]) -> list[tuple[Variant, Change]]:
    """The variants of a run that does not fit and that lower its peak, with what each saves, most first."""
    before = peaks(run)
    found = []
    for one in variants(run.settings, run.model, sizes, run.machine):
        after = peaks(one)
        saves = before.host - after.host if before.on_device else before.device - after.device
        if saves > _WORTH * (before.host if before.on_device else before.device):
            found.append((one, Change(one.shown, saves, after.on_device and after.on_host, one.needs)))
    return sorted(found, key=lambda pair: -pair[1].saves)


def combination(began: Variant, sizes: Sizes, peaks: Callable[[Variant], Peaks]) -> Change | None:
    """Changes on top of each other, at each point the one that then saves most, until the run fits or nothing helps: of
    what is installed where that is enough, else with what is not. Starting more processes is left to the user."""
    before, found = peaks(began), None
    for missing in (False, True):
        run, shown, needs, fits = began, dict[str, str](), "", False
        while not fits:
            usable = [pair for pair in tried(run, sizes, peaks) if missing or not pair[1].needs]
            usable = [pair for pair in usable if LAUNCHER not in pair[1].settings]
            if not usable:
                break
            run, change = usable[0]
            shown |= {setting.partition("=")[0]: setting for setting in change.settings}
            needs, fits = needs or change.needs, change.fits
        if shown:
            after = peaks(run)
            saves = before.host - after.host if before.on_device else before.device - after.device
            found = Change(tuple(shown.values()), saves, fits, needs)
        if fits:
            break
    return found


def short_patterns(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Patterns that match the same names: those that differ in the last digit before ``.*`` as one.

    Example: ``("l.8.*", "l.9.*", "l.10.*", "l.11.*")`` gives ``("l.[89].*", "l.1[01].*")``.
    """
    short = []
    for stem, found in groupby(patterns, key=lambda pattern: _DIGIT.sub("", pattern)):
        same = list(found)
        digits = "".join(pattern[len(stem) : len(stem) + 1] for pattern in same)
        short.append(f"{stem}[{digits}].*" if len(same) > 1 else same[0])
    return tuple(short)


def _can_be_sharded(settings: TrainingSettings) -> bool:
    from expunge.training.sharding import OPTIMIZERS

    return settings.optimizer in OPTIMIZERS and settings.reference == "cached"
