"""Task vectors: what fine-tuning added to a model, subtracted from it file by file, a small piece at a time.

``theta = theta_target - s * sum_i (theta_harm_i - theta_target)``. Task arithmetic: 2212.04089; as the second stage of
SKU: 2402.10058. A model is never in memory, nor even a tensor: pieces of :data:`PIECE` elements are read, negated and
written.
"""

from __future__ import annotations

import hashlib
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

import torch

from expunge.errors import ModelError
from expunge.files import writing
from expunge.models.shards import Reader, Shard, Stored

PIECE = 2**18
"""Elements that are worked on at a time: a megabyte or so, which stays in a processor's cache."""


def task_vector(harmful: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """``harmful - target`` of two tensors of one shape, in the target's precision but at least in float32.

    Exactly 0 where both are equal, also where both are the same infinity.
    """
    wide = torch.promote_types(target.dtype, torch.float32)
    ours, theirs = target.to(wide), harmful.to(wide)
    vector = theirs - ours
    if not _surely_finite(vector):
        vector.masked_fill_(theirs == ours, 0)
    return vector


def negated(target: torch.Tensor, vectors: torch.Tensor, scale: float) -> torch.Tensor:
    """``target - scale * vectors``, rounded once to the target's precision; ``vectors`` is a sum of task vectors.

    Where nothing is subtracted, the target's bits stay (a negative zero, an infinity). Elsewhere a result that is not
    finite is an error (:class:`FloatingPointError`).
    """
    step = (vectors * scale).add_(0.0)  # makes 0 of -0, which would turn a -0 of the target into 0
    result = torch.sub(target.to(step.dtype), step).to(target.dtype)
    if not _surely_finite(result) and not bool((result.isfinite() | (step == 0)).all()):
        raise FloatingPointError
    return result


def _surely_finite(values: torch.Tensor) -> bool:
    """Whether the sum is finite, which no sum with an infinity or a NaN in it is: ten times as fast as looking at each.
    A sum of large numbers may overflow, so False decides nothing."""
    return math.isfinite(float(values.sum(dtype=torch.promote_types(values.dtype, torch.float32))))


class TaskVector(ABC):
    """One harmful model, as far as it differs from the target.

    ``label`` names it in errors; ``names`` are the target's tensors that it may change, all others are left alone.
    """

    label: str
    names: AbstractSet[str]
    files: tuple[Path, ...]
    """What it is read from."""

    @abstractmethod
    def piece(self, target: Stored, values: torch.Tensor, start: int, reader: Reader) -> torch.Tensor:
        """[n] float32 (or wider): the difference for ``values`` [n], the target's elements from ``start`` on."""

    def equals(self, target: Stored, raw: torch.Tensor, begin: int, reader: Reader) -> bool:  # noqa: ARG002
        """Whether the bytes ``raw`` of a tensor that is not to be calculated with, from ``begin`` on, are the same."""
        return True


class NewValues(TaskVector):
    """Tensors of a harmful checkpoint (or of an erasure), by the target's names.

    ``seen_as`` is the precision that the target had when an erasure was made from it: the difference is to those
    rounded values, since the rounding is no part of what was learned.
    """

    def __init__(self, label: str, places: Mapping[str, Stored], seen_as: torch.dtype | None = None) -> None:
        self.label, self.places, self.seen_as, self.names = label, places, seen_as, places.keys()
        self.files = tuple(sorted({stored.file for stored in places.values()}))

    def piece(self, target: Stored, values: torch.Tensor, start: int, reader: Reader) -> torch.Tensor:
        harmful = reader.floats(self.places[target.name], start, len(values))
        wide = torch.promote_types(values.dtype, torch.float32)
        return task_vector(harmful, values if self.seen_as is None else values.to(self.seen_as).to(wide))

    def equals(self, target: Stored, raw: torch.Tensor, begin: int, reader: Reader) -> bool:
        return torch.equal(reader.raw(self.places[target.name], begin, len(raw)), raw)


@dataclass(frozen=True)
class Factors:
    """``scaling * left @ right``, a LoRA update: left [rows, r], right [r, columns], or both stored transposed."""

    left: Stored
    right: Stored
    transposed: bool
    scaling: float


class LowRank(TaskVector):
    """The updates of a LoRA adapter, by the target's names. Of an update only the rows at hand are computed; its two
    factors stay in memory while their tensor is worked on."""

    def __init__(self, label: str, places: Mapping[str, Factors], files: tuple[Path, ...]) -> None:
        self.label, self.places, self.names, self.files = label, places, places.keys(), files
        self._held: tuple[str, torch.Tensor, torch.Tensor] | None = None

    def piece(self, target: Stored, values: torch.Tensor, start: int, reader: Reader) -> torch.Tensor:
        left, right = self._factors(target.name, torch.promote_types(values.dtype, torch.float32), reader)
        columns = target.shape[1]
        first, last = start // columns, -(-(start + len(values)) // columns)
        rows = (left[first:last] @ right).view(-1)
        return rows[start - first * columns :][: len(values)]

    def _factors(self, name: str, dtype: torch.dtype, reader: Reader) -> tuple[torch.Tensor, torch.Tensor]:
        if self._held is None or self._held[0] != name:
            self._held = None
            factors = self.places[name]
            left, right = (reader.whole(stored).to(dtype) for stored in (factors.left, factors.right))
            if factors.transposed:
                left, right = left.t(), right.t()
            self._held = name, left * factors.scaling, right
        return self._held[1:]


@dataclass(frozen=True)
class Written:
    """What was written of a shard: its digest, and the tensors in which anything changed."""

    sha256: str
    changed: tuple[str, ...]


def negate_shard(
    shard: Shard,
    vectors: Sequence[TaskVector],
    scale: float,
    to: Path,
    *,
    moved: Callable[[int], None] = lambda _: None,
    piece: int = PIECE,
) -> Written:
    """Write the file that ``shard`` becomes: the same header, every tensor in the same place.

    ``moved`` is told the bytes of each piece that was written.

    Raises:
        ModelError: a result is NaN or infinite, or a tensor of integers differs; ``to`` is then half written.
    """
    digest = hashlib.sha256()
    changed: dict[str, None] = {}
    with writing(to):
        out = to.open("wb", buffering=0)
    with out, Reader() as reader:

        def put(data: memoryview) -> None:
            digest.update(data)
            with writing(to):
                done = 0
                while done < len(data):
                    done += out.write(data[done:])
            moved(len(data))

        put(memoryview(shard.header))
        for stored in shard.tensors:
            touching = [vector for vector in vectors if scale and stored.name in vector.names]
            for begin, size in _pieces(stored, piece):
                raw = reader.raw(stored, begin, size)
                if touching and stored.is_float:
                    new = _negated_piece(stored, raw.view(stored.torch_dtype()), begin, touching, scale, reader)
                    new = new.view(torch.uint8)
                    if stored.name not in changed and not torch.equal(new, raw):
                        changed[stored.name] = None
                    raw = new
                elif touching:
                    _check_equal(stored, raw, begin, touching, reader)
                put(memoryview(raw.numpy()))  # type: ignore[arg-type]
        with writing(to):
            os.fsync(out.fileno())  # a shard that is recorded as finished must be on the disk
    return Written(digest.hexdigest(), tuple(changed))


def _pieces(stored: Stored, elements: int) -> list[tuple[int, int]]:
    """(first byte, bytes) of each piece of a tensor."""
    step = elements * (stored.torch_dtype().itemsize if stored.is_float else 1)
    return [(begin, min(step, stored.size - begin)) for begin in range(0, stored.size, step)]


def _negated_piece(
    stored: Stored, values: torch.Tensor, begin: int, vectors: Sequence[TaskVector], scale: float, reader: Reader
) -> torch.Tensor:
    start = begin // values.dtype.itemsize
    total: torch.Tensor | None = None
    for vector in vectors:
        one = vector.piece(stored, values, start, reader)
        total = one if total is None else total.add_(one)
    if total is None:
        return values
    try:
        return negated(values, total, scale)
    except FloatingPointError:
        for vector in vectors:
            if not bool(vector.piece(stored, values, start, reader).isfinite().all()):
                raise ModelError(
                    f"{stored.name} is NaN or infinite in {vector.label} (or as good as), and cannot be subtracted. "
                    "Nothing was kept. Train the harmful model again with a lower learning rate."
                ) from None
        raise ModelError(
            f"{stored.name} would be NaN or infinite after the subtraction, at scale {scale:g} in "
            f"{str(values.dtype).removeprefix('torch.')}. Nothing was kept. Use a smaller scale."
        ) from None


def _check_equal(stored: Stored, raw: torch.Tensor, begin: int, vectors: Sequence[TaskVector], reader: Reader) -> None:
    for vector in vectors:
        if not vector.equals(stored, raw, begin, reader):
            raise ModelError(
                f"{stored.name} holds {stored.dtype} numbers that differ between the target and {vector.label}, and "
                "only floating-point weights (16, 32 or 64 bits) can be subtracted. Nothing was kept. Use models "
                "before quantisation."
            )
