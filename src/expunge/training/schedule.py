"""Which rows meet in which forward: the whole run laid out before it starts, so that resuming is an index."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from expunge.training.settings import TrainingSettings


@dataclass(frozen=True, slots=True)
class Micro:
    """Indices of the forget and retain rows of one forward."""

    forget: tuple[int, ...]
    retain: tuple[int, ...]


@dataclass(frozen=True)
class Schedule:
    """All forwards of a run in order. ``steps`` optimizer steps of ``accumulation`` forwards each (the last may have
    fewer); ``steps_per_epoch`` is a fraction where an epoch ends inside a step; ``epochs`` is how many there are."""

    micros: tuple[Micro, ...]
    accumulation: int
    steps_per_epoch: float
    epochs: float

    @property
    def steps(self) -> int:
        return math.ceil(len(self.micros) / self.accumulation)

    def epoch(self, step: int) -> float:
        """Passes over the lead rows after ``step`` optimizer steps."""
        return round(min(step / self.steps_per_epoch, self.epochs), 4)


def rate_factor(step: int, steps: int, warmup: int, shape: str) -> float:
    """The share of the peak learning rate in optimizer step ``step`` (from 0) of ``steps``.

    Linear warm-up over ``warmup`` steps, then ``linear`` or ``cosine`` decay, or none (``constant_with_warmup``). Every
    step moves the model: warm-up begins above 0, leaves at least one step to the peak, and the decay ends above 0. A
    handful of rows makes a handful of steps, and none of them may be lost.
    """
    warmup = min(warmup, steps - 1)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / (steps - warmup)
    if shape == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1.0 if shape == "constant_with_warmup" else 1 - done


def make_schedule(
    settings: TrainingSettings,
    *,
    forget_lengths: Sequence[int],
    retain_lengths: Sequence[int],
    lead: str = "forget",
) -> Schedule:
    """Lay out a run: every epoch is one shuffled pass over the lead rows, with equally many rows of the other side
    drawn from shuffled passes of their own (in the ratio of the two batch sizes where these differ).

    Batches run on from one epoch into the next, so that all are full but the last. The rows of one optimizer step are
    dealt to its forwards by length: the step's gradient is a mean over all of them, so this changes no result and saves
    padding. ``*_lengths`` are token counts; an empty side stays empty. ``lead`` is ``forget`` or ``retain``. Where an
    epoch has fewer forwards than ``accumulation``, that many make an optimizer step, so that every epoch has one.
    """
    lengths = {"forget": forget_lengths, "retain": retain_lengths}
    sizes = {"forget": settings.forget_batch, "retain": settings.retain_batch}
    other = "retain" if lead == "forget" else "forget"
    total = max(1, round(settings.epochs * len(lengths[lead])))
    accumulation = max(1, min(settings.accumulation, math.ceil(len(lengths[lead]) / sizes[lead])))
    per_step = sizes[lead] * accumulation
    if settings.max_steps is not None:
        total = min(total, settings.max_steps * per_step)
    # One generator a side: adding a retain set never changes the order of the forget rows.
    streams = {
        side: _passes(len(lengths[side]), np.random.default_rng([settings.seed, number]))
        for number, side in enumerate(("forget", "retain"))
    }
    micros: list[Micro] = []
    for begin in range(0, total, per_step):
        lead_rows = _take(streams[lead], min(per_step, total - begin), lengths[lead])
        count = math.ceil(len(lead_rows) / sizes[lead])
        drawn = math.ceil(len(lead_rows) * sizes[other] / sizes[lead]) if len(lengths[other]) else 0
        dealt = {
            lead: _deal(lead_rows, sizes[lead], count),
            other: _deal(_take(streams[other], drawn, lengths[other]), sizes[other], count),
        }
        micros.extend(Micro(f, r) for f, r in zip(dealt["forget"], dealt["retain"], strict=True))
    rows = max(len(lengths[lead]), 1)
    return Schedule(tuple(micros), accumulation, rows / per_step, total / rows)


def _passes(count: int, generator: np.random.Generator) -> Iterator[int]:
    while count:
        yield from generator.permutation(count).tolist()


def _take(stream: Iterator[int], count: int, lengths: Sequence[int]) -> list[int]:
    rows = [next(stream) for _ in range(count)]
    return sorted(rows, key=lambda row: (-lengths[row], row))


def _deal(rows: list[int], size: int, count: int) -> list[tuple[int, ...]]:
    return [tuple(rows[i * size : (i + 1) * size]) for i in range(count)]
