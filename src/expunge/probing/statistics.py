"""Count, mean, variance and mean magnitude of every neuron, over any number of values in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

from expunge.errors import InputError

# Values that are worked on at a time: what fits a CPU's cache, and on a GPU little beside a forward's own memory.
_CPU_VALUES = 2**17
_GPU_VALUES = 2**24
_LEAST_ROWS = 32
_ROUNDING = 1e-6  # how far, at most, a float32 mean of equal values is from them, as a share


def wide(device: torch.device) -> torch.device:
    """Where float64 lives for values on ``device``: there, or in host memory for a device that has none."""
    return torch.device("cpu") if device.type == "mps" else device


@dataclass(frozen=True)
class Moments:
    """What is known of ``count`` values of each of W neurons; all tensors are [W] float64.

    ``squares`` is the sum of squared distances to the mean. ``minimum`` and ``maximum`` are there where asked for.
    """

    count: int
    mean: Tensor
    squares: Tensor
    magnitude: Tensor
    minimum: Tensor | None = None
    maximum: Tensor | None = None

    @classmethod
    def of(cls, values: Tensor, *, extremes: bool = False) -> Self:
        """The moments of ``values`` [n, W], n at least 1.

        Float32 and narrower values are summed in float32 as distances to the mean of their chunk, which a large offset
        does not reach: the chunk's mean enters twice, so that its own rounding cancels (the corrected two-pass formula;
        Chan, Golub and LeVeque 1983). Chunks are put together in float64. float64 values stay float64.
        """
        size = _CPU_VALUES if values.device.type == "cpu" else _GPU_VALUES
        chunks = values.split(max(_LEAST_ROWS, size // values.shape[1]))
        home = wide(values.device)
        parts: list[list[Tensor]] = [[], [], [], []]
        for chunk in chunks:
            given = chunk if chunk.dtype == torch.float64 else chunk.float()
            middle, first = given.mean(0), given[0]
            # a neuron that never varies has no variance at all, which a mean's rounding would give it
            middle = torch.where((middle - first).abs() <= _ROUNDING * first.abs(), first, middle)
            apart = given - middle
            parts[0].append(middle)
            parts[1].append(apart.sum(0))
            parts[2].append(apart.square_().sum(0))
            parts[3].append(given.abs().sum(0))
        middle, rest, squares, magnitude = (torch.stack(some).to(home, torch.float64) for some in parts)
        counts = torch.tensor([float(len(chunk)) for chunk in chunks], dtype=torch.float64, device=home)[:, None]
        means = middle + rest / counts
        mean = means[0] + ((means - means[0]) * counts).sum(0) / len(values)
        within = squares - rest.square() / counts
        return cls(
            len(values),
            mean,
            (within + (means - mean).square() * counts).sum(0),
            magnitude.sum(0) / len(values),
            values.amin(0).to(home, torch.float64) if extremes else None,
            values.amax(0).to(home, torch.float64) if extremes else None,
        )

    @classmethod
    def none(cls, width: int, *, extremes: bool = False) -> Self:
        """The moments of no values."""
        zeros = torch.zeros(width, dtype=torch.float64)
        infinite = torch.full_like(zeros, torch.inf)
        return cls(0, zeros, zeros, zeros, *((infinite, -infinite) if extremes else (None, None)))

    def merged(self, other: Self) -> Self:
        """The moments of both sets of values together (Chan, Golub and LeVeque's pairwise update)."""
        if not self.count or not other.count:
            return self if self.count else other
        if self.mean.shape != other.mean.shape or (self.minimum is None) != (other.minimum is None):
            raise InputError(
                f"statistics of {len(self.mean)} and {len(other.mean)} neurons, with {self.kept} and {other.kept}, "
                "cannot be put together. Probe both with the same sites and settings."
            )
        count = self.count + other.count
        share = other.count / count
        gap = other.mean - self.mean
        return replace(
            self,
            count=count,
            mean=self.mean + gap * share,
            squares=self.squares + other.squares + gap.square() * (self.count * share),
            magnitude=self.magnitude + (other.magnitude - self.magnitude) * share,
            minimum=None if other.minimum is None else torch.minimum(self.minimum, other.minimum),  # type: ignore[arg-type]
            maximum=None if other.maximum is None else torch.maximum(self.maximum, other.maximum),  # type: ignore[arg-type]
        )

    @property
    def kept(self) -> tuple[str, ...]:
        """The names of the tensors that are there."""
        return tuple(f.name for f in fields(self) if isinstance(getattr(self, f.name), Tensor))

    @property
    def variance(self) -> Tensor:
        """[W] with n - 1, which takes two values.

        Raises:
            InputError: there are fewer.
        """
        if self.count < 2:
            raise InputError(
                f"a standard deviation takes at least 2 values, and there {'is' if self.count else 'are'} "
                f"{self.count}. Give more rows, or pool over all tokens."
            )
        # rounding leaves no variance below 0: squares is a sum of squares but for terms that cancel
        return (self.squares / (self.count - 1)).clamp(min=0)

    @property
    def deviation(self) -> Tensor:
        """[W] the standard deviation, with n - 1."""
        return self.variance.sqrt()

    def finite(self) -> Tensor:
        """A boolean of its own device: whether every value was a finite number. NaN and infinity reach the variance."""
        return self.squares.isfinite().all()

    def on_host(self) -> Self:
        """The same in host memory."""
        return replace(self, **{name: getattr(self, name).cpu() for name in self.kept})


def row_means(values: Tensor, rows: Tensor) -> Tensor:
    """[R, W] float64 mean over the values [n, W] of each row that has any; ``rows`` [n] says whose each is.

    The rows come in the order of their numbers.
    """
    home = wide(values.device)
    there, place, counts = torch.unique(rows.to(home), return_inverse=True, return_counts=True)
    sums = torch.zeros((len(there), values.shape[1]), dtype=torch.float64, device=home)
    size = max(1, (_CPU_VALUES if values.device.type == "cpu" else _GPU_VALUES) // values.shape[1])
    for some, whose in zip(values.split(size), place.split(size), strict=True):
        sums.index_add_(0, whose, some.to(home, torch.float64))
    means: Tensor = sums / counts[:, None]
    return means


def merge_all(some: Sequence[Moments]) -> Moments:
    """The moments of all of them together, in the order given."""
    first, *others = some
    for other in others:
        first = first.merged(other)
    return first
