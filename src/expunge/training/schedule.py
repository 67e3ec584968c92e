"""Which rows meet in which forward: the whole run laid out before it starts, so that resuming is an index."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np

from expunge.training.settings import TrainingSettings

_WORTH = {"cpu": 128, "cuda": 2048}
_MOST_PIECES = 3  # of a forward; more save little


@dataclass(frozen=True, slots=True)
class Micro:
    """Indices of forget and retain rows. ``visits`` says how often each of these forget rows came before; ``epoch`` is
    the pass over the lead rows that the first of them belongs to, from 0."""

    forget: tuple[int, ...] = ()
    retain: tuple[int, ...] = ()
    visits: tuple[int, ...] = ()
    epoch: int = 0

    @property
    def sides(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return self.forget, self.retain

    def __bool__(self) -> bool:
        return bool(self.forget or self.retain)


@dataclass(frozen=True)
class Schedule:
    """All rows of a run in order: ``batches`` holds the rows of each optimizer step, both sides longest first.

    ``sizes`` are the forget and retain rows of one forward, ``accumulation`` the most forwards of a step;
    ``steps_per_epoch`` is a fraction where an epoch ends inside a step; ``epochs`` is how many there are. A forward
    whose rows differ in length is cut into several where each saves more than ``worth`` tokens of padding (None:
    never); ``lengths`` are the token counts of forget and retain rows.
    """

    batches: tuple[Micro, ...]
    sizes: tuple[int, int]
    lead: str
    accumulation: int
    steps_per_epoch: float
    epochs: float
    lengths: tuple[Sequence[int], Sequence[int]] = field(default=((), ()), repr=False)
    worth: int | None = None

    @property
    def steps(self) -> int:
        return len(self.batches)

    def epoch(self, step: int) -> float:
        """Passes over the lead rows after ``step`` optimizer steps."""
        return round(min(step / self.steps_per_epoch, self.epochs), 4)

    def forwards(self, processes: int = 1) -> int:
        """Most forwards of one optimizer step in each of so many processes."""
        return max(map(len, self._dealt), default=1) if processes == 1 else math.ceil(self.accumulation / processes)

    @cached_property
    def _dealt(self) -> list[list[Micro]]:
        """What one process runs in each step."""
        return [
            [piece for micro in self._deal(batch, self.accumulation, 1) for piece in self._by_length(micro)]
            for batch in self.batches
        ]

    def micros(self, process: int = 0, processes: int = 1) -> tuple[Micro, ...]:
        """What one of several processes runs: :meth:`forwards` a step, in order.

        Every optimizer step has the same rows whatever the number of processes. A step with fewer rows has its empty
        forwards first, so that the last one, after which processes meet, has rows wherever there are enough.
        """
        count = self.forwards(processes) * processes
        result: list[Micro] = []
        for number, batch in enumerate(self.batches):
            dealt = self._dealt[number] if processes == 1 else self._deal(batch, count, processes)
            slots = [*[Micro(epoch=batch.epoch)] * (count - len(dealt)), *dealt]
            result.extend(slots[process::processes])
        return tuple(result)

    def _deal(self, batch: Micro, count: int, processes: int) -> list[Micro]:
        """The rows of an optimizer step dealt to its forwards by length: the step's gradient is a mean over all of
        them, so this changes no result and saves padding. Several processes get equal shares."""
        lead = len(batch.forget if self.lead == "forget" else batch.retain)
        size = self.sizes[0 if self.lead == "forget" else 1]
        if processes == 1:
            parts = math.ceil(lead / size)
            cuts = [
                [min(i * one, len(rows)) for i in range(parts + 1)]
                for one, rows in zip(self.sizes, batch.sides, strict=True)
            ]
        else:
            parts = min(count, lead)
            cuts = [[i * len(rows) // parts for i in range(parts + 1)] for rows in batch.sides]
        forget, retain = ([slice(*pair) for pair in pairwise(places)] for places in cuts)
        return [
            Micro(batch.forget[f], batch.retain[r], batch.visits[f], batch.epoch)
            for f, r in zip(forget, retain, strict=True)
        ]

    def _by_length(self, micro: Micro) -> list[Micro]:
        """The rows of a forward in several with less padding. Losses are sums over rows divided by what the whole
        step counts, so this changes no result either."""
        if self.worth is None:
            return [micro]
        rows = [
            (self.lengths[side][row], side, place) for side in (0, 1) for place, row in enumerate(micro.sides[side])
        ]
        rows.sort(key=lambda row: -row[0])
        pieces = []
        for begin, end in pairwise(cuts([length for length, _, _ in rows], self.worth, _MOST_PIECES)):
            forget, retain = (
                sorted(place for _, side, place in rows[begin:end] if side == wanted) for wanted in (0, 1)
            )
            pieces.append(
                Micro(
                    tuple(micro.forget[place] for place in forget),
                    tuple(micro.retain[place] for place in retain),
                    tuple(micro.visits[place] for place in forget),
                    micro.epoch,
                )
            )
        return pieces


def worth_a_forward(settings: TrainingSettings, device: str) -> int | None:
    """The padding, in tokens, that costs more than one more forward, whose gradients are added to those before and
    whose smaller products leave a GPU idle. None where nothing is padded or no such number is known."""
    return None if settings.packing else _WORTH.get(device)


def cuts(lengths: Sequence[int], worth: int, most: int) -> list[int]:
    """Where to cut rows of these lengths, longest first, into at most ``most`` pieces of which each is padded to its
    own longest: the least padding, where every cut counts as ``worth`` tokens. 0 and the number of rows are included.
    """
    count = len(lengths)
    if count * max(lengths, default=0) - sum(lengths) <= worth:
        return [0, count]
    # best[i]: (padded tokens of rows i.. and worth of their cuts, those cuts) in at most so many pieces
    best = [((count - i) * lengths[i], [count]) for i in range(count)] + [(0, [])]
    for _ in range(most - 1):
        for i in range(count):  # from the front, so that best[j > i] still has one piece fewer
            for j in range(i + 1, count):
                padded = (j - i) * lengths[i] + worth + best[j][0]
                if padded < best[i][0]:
                    best[i] = (padded, [j, *best[j][1]])
    return [0, *best[0][1]]


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
    whole_epochs: bool = False,
    worth: int | None = None,
) -> Schedule:
    """Lay out a run: every epoch is one shuffled pass over the lead rows, with equally many rows of the other side
    drawn from shuffled passes of their own (in the ratio of the two batch sizes where these differ).

    Batches run on from one epoch into the next, so that all are full but the last; with ``whole_epochs`` they end
    where an epoch ends. ``*_lengths`` are token counts; an empty side stays empty. ``lead`` is ``forget`` or
    ``retain``. ``worth`` is the padding that costs more than a forward (:func:`worth_a_forward`). Where an epoch has
    fewer forwards than ``accumulation``, that many make an optimizer step, so that every epoch has one.
    """
    lengths = {"forget": forget_lengths, "retain": retain_lengths}
    sizes = {"forget": settings.forget_batch, "retain": settings.retain_batch}
    other = "retain" if lead == "forget" else "forget"
    rows = max(len(lengths[lead]), 1)
    total = max(1, round(settings.epochs * len(lengths[lead])))
    accumulation = max(1, min(settings.accumulation, math.ceil(len(lengths[lead]) / sizes[lead])))
    per_step = sizes[lead] * accumulation
    # One generator a side: adding a retain set never changes the order of the forget rows.
    streams = {
        side: _passes(len(lengths[side]), np.random.default_rng([settings.seed, number]))
        for number, side in enumerate(("forget", "retain"))
    }
    seen = [0] * len(forget_lengths)
    batches: list[Micro] = []
    begin = 0
    while begin < total and (settings.max_steps is None or len(batches) < settings.max_steps):
        epoch = begin // rows
        end = min(begin + per_step, total, (epoch + 1) * rows if whole_epochs else total)
        drawn = {lead: end - begin, other: 0}
        if len(lengths[other]):
            drawn[other] = math.ceil((end - begin) * sizes[other] / sizes[lead])
        taken = {side: _take(streams[side], drawn[side], lengths[side]) for side in (lead, other)}
        visits = []
        for row in taken["forget"]:
            visits.append(seen[row])
            seen[row] += 1
        batches.append(Micro(tuple(taken["forget"]), tuple(taken["retain"]), tuple(visits), epoch))
        begin = end
    return Schedule(
        tuple(batches),
        (sizes["forget"], sizes["retain"]),
        lead,
        accumulation,
        math.ceil(rows / per_step) if whole_epochs else rows / per_step,
        begin / rows,
        (tuple(forget_lengths), tuple(retain_lengths)),
        worth,
    )


def _passes(count: int, generator: np.random.Generator) -> Iterator[int]:
    while count:
        yield from generator.permutation(count).tolist()


def _take(stream: Iterator[int], count: int, lengths: Sequence[int]) -> list[int]:
    rows = [next(stream) for _ in range(count)]
    return sorted(rows, key=lambda row: (-lengths[row], row))
