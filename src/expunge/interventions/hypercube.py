"""Boxes around the keys of forget rows, and which values lie in them: many boxes at once, exactly, early out.

A key v lies in the box ``centre +- h spread`` when its ratio, the largest |v - centre| / spread over all neurons, is at
most h (key space detection, arXiv 2503.21730). A hypercube has a box at each of its sites and one h for all of them: it
holds a token whose largest ratio over its sites is at most h.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from expunge.errors import ConfigError, InputError
from expunge.models.roles import Site
from expunge.probing.result import ProbeResult
from expunge.probing.statistics import Moments

_STEPS = 8  # of rounding that a neuron which does not vary is given
_FIRST = 64  # neurons that are looked at before all others
_MANY = 0.25  # the share of comparisons from which on picking them out costs more than making all
_CPU_VALUES = 2**16  # compared at a time: what a core's own cache holds
_GPU_VALUES = 2**24  # compared at once, without asking the device which rows are left


@dataclass(frozen=True)
class Box:
    """Around the keys of one site; all tensors are [W] in host memory, float32 but for the last.

    ``centre`` and ``spread`` are the keys' mean and standard deviation (with n - 1). A neuron that never varied has
    spread 0: its ratio is 0 up to ``tolerance`` from the centre and infinite beyond. ``k_star`` is the largest ratio of
    the keys themselves. ``order`` [at most 64, int64] are the neurons that shut out most other values, those first;
    results do not depend on it.
    """

    centre: Tensor
    spread: Tensor
    tolerance: Tensor
    order: Tensor
    k_star: float

    @classmethod
    def of(cls, keys: Moments, dtype: torch.dtype, others: Moments | None = None) -> Self:
        """The box of keys whose extremes are known, and which were computed in ``dtype``.

        A neuron counts as one that never varied when no key is farther than the tolerance from the mean: 8 roundings of
        the mean itself in ``dtype``, and 8 in float32 of the site's mean magnitude, since sums round, too.

        ``others``: of values that shall be told apart from the keys; used to choose which neurons to look at first.
        """
        least, most = keys.minimum, keys.maximum
        if least is None or most is None:
            raise InputError("a box takes the extremes of its keys. Probe with extremes=True.")
        centre, spread = keys.mean.float(), keys.deviation.float()
        rounding = torch.finfo(dtype).eps * keys.mean.abs() + torch.finfo(torch.float32).eps * keys.magnitude.mean()
        tolerance = (_STEPS * rounding).float()
        ends = torch.stack([least, most]).float()
        still = ((ends - centre).abs() <= tolerance).all(0)
        spread = torch.where(still, 0.0, spread)
        tolerance = torch.where(still, tolerance, 0.0)
        # ratios only grow with the distance, in floating point too: the extremes have the largest
        ratios = (ends - centre).abs() / spread.masked_fill(still, torch.inf)
        return cls(centre, spread, tolerance, _telling(centre, spread, tolerance, others), float(ratios.max()))


def _telling(centre: Tensor, spread: Tensor, tolerance: Tensor, others: Moments | None) -> Tensor:
    """The neurons with the largest mean squared ratio of other values; of unknown ones it is supposed that every neuron
    has mean 0 and varies as the average one."""
    if others is None or not others.count:
        squares = centre.square() + spread.square().mean()
    else:
        varies = others.squares / others.count
        squares = ((others.mean - centre).square() + varies).float()
    scores = squares / torch.where(spread > 0, spread, tolerance).square().clamp(min=torch.finfo(torch.float32).tiny)
    return torch.topk(scores.nan_to_num(), min(_FIRST, len(scores))).indices


@dataclass(frozen=True)
class Hypercube:
    """A box at each of several sites, in forward order."""

    boxes: Mapping[Site, Box]

    @classmethod
    def of(
        cls,
        forget: ProbeResult,
        *,
        sites: Sequence[Site] | None = None,
        dtype: torch.dtype | None = None,
        retain: ProbeResult | None = None,
    ) -> Self:
        """The hypercube of the keys that a probe with extremes read, at all its sites or at ``sites``.

        ``dtype`` is what the model computes in, by default what the probe says of it. By ``retain``, a probe of rows to
        tell the keys from, the neurons are chosen that are looked at first; it changes no result. An expert to which
        fewer than two keys were sent has no box: it says nothing about a token.

        Raises:
            InputError: a site with one key or none, or a layer none of whose experts has two; extremes were not kept.
            ConfigError: no sites.
        """
        chosen = forget.sites if sites is None else tuple(sites)
        if not chosen:
            raise ConfigError("a hypercube takes at least one site. Name some, or leave them out for all of the probe.")
        given = dtype or getattr(torch, forget.target.dtype)
        boxes: dict[Site, Box] = {}
        for site in chosen:
            if forget.count(site) < 2 and site.expert is not None:
                continue
            _check_keys(forget, site)
            others = retain.of(site) if retain is not None and site in retain.moments else None
            boxes[site] = Box.of(forget.of(site), given, others)
        bare = sorted({site.module for site in chosen} - {site.module for site in boxes})
        if bare:
            raise InputError(
                f"no expert of {', '.join(bare)} was sent two keys, which a hypercube takes. Give more "
                "forget rows, or read the keys of all tokens."
            )
        return cls(boxes)

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(self.boxes)

    @property
    def k_star(self) -> float:
        """The least h with which the hypercube holds every key that it was made of."""
        return max(box.k_star for box in self.boxes.values())


def _check_keys(forget: ProbeResult, site: Site) -> None:
    count = forget.count(site)
    if count < 2:
        raise InputError(
            f"a hypercube takes at least 2 forget keys, and there {'is' if count else 'are'} {count} at {site.key} "
            f"({forget.scope.rows} forget row{'s' * (forget.scope.rows != 1)}, {forget.scope.pooling} tokens). Give "
            "more forget rows, or read the keys of all tokens."
        )


class Hypercubes:
    """C hypercubes on the same sites, each with its scales h, as one comparison.

    Args:
        cubes: they have the same sites.
        generation, scoring: each cube's h while generating and while scoring; NaN is refused.
        refusals: per cube the token ids of what is said in place of an answer, no end token.
        steer: [C, W] what takes the place of detected values at the last site, or None to abstain.

    Tensors are moved once to each device that asks, and kept there.
    """

    def __init__(
        self,
        cubes: Sequence[Hypercube],
        *,
        generation: Sequence[float],
        scoring: Sequence[float],
        refusals: Sequence[tuple[int, ...]] | None = None,
        steer: Tensor | None = None,
    ) -> None:
        self.cubes = tuple(cubes)
        self.refusals = tuple(((),) * len(self.cubes) if refusals is None else map(tuple, refusals))
        self.steer = steer
        self.generation, self.scoring = (
            torch.tensor(list(some), dtype=torch.float32) for some in (generation, scoring)
        )
        self._check()
        self.sites: tuple[Site, ...] = self.cubes[0].sites
        self._made = {site: _Constants.of([cube.boxes[site] for cube in self.cubes]) for site in self.sites}
        self._there: dict[tuple[Site, torch.device], _Constants] = {}
        self._scales: dict[tuple[torch.device, bool], Tensor] = {}

    @property
    def count(self) -> int:
        return len(self.cubes)

    def _check(self) -> None:
        if not self.cubes:
            raise ConfigError("there is no hypercube. Give at least one.")
        lengths = {"generation": len(self.generation), "scoring": len(self.scoring), "refusals": len(self.refusals)}
        if self.steer is not None:
            lengths["steer"] = len(self.steer)
        wrong = [f"{name} has {length}" for name, length in lengths.items() if length != self.count]
        if wrong:
            raise ConfigError(f"{', '.join(wrong)} for {self.count} hypercubes. Give one for each.")
        if bool(torch.cat([self.generation, self.scoring]).isnan().any()):
            raise ConfigError("a hypercube's scale is NaN. Give a number; -inf detects nothing.")
        first = self.cubes[0]
        widths = [{site: len(box.centre) for site, box in cube.boxes.items()} for cube in self.cubes]
        if any(width != widths[0] for width in widths):
            raise InputError("these hypercubes have different sites or widths. Put those on the same sites together.")
        last = len(first.boxes[first.sites[-1]].centre)
        if self.steer is not None and self.steer.shape[1:] != (last,):
            raise ConfigError(f"steer has shape {list(self.steer.shape)}; [{self.count}, {last}] is needed.")

    def ratio(self, site: Site, values: Tensor) -> Tensor:
        """[n, C] float32: the largest |v - centre| / spread over a site's neurons, of values [n, W]; NaN for NaN."""
        known, values = self._on(site, values.device), values.detach().float()
        found = values.new_empty(len(values), self.count)
        rows, cubes = _blocks(values, self.count)
        for row in range(0, len(values), rows):
            for cube in range(0, self.count, cubes):
                some, these = slice(row, row + rows), slice(cube, cube + cubes)
                found[some, these] = known.ratios(values[some, None], these)
        return found

    def inside(self, site: Site, values: Tensor, *, scoring: bool) -> Tensor:
        """[n, C] bool: whether :meth:`ratio` is at most the cube's scale, without working all of it out.

        A few neurons shut out most values; only what passes those is compared on all neurons. On a device other than
        the CPU that takes waiting for it, so there a small comparison (n C W up to 2^24) is done in full instead, and
        so is any while torch compiles it.
        """
        scales = self._scales_on(values.device, scoring)
        small = values.device.type != "cpu" and len(values) * self.count * values.shape[1] <= _GPU_VALUES
        if small or torch.compiler.is_compiling():
            return self.ratio(site, values) <= scales
        known, values = self._on(site, values.device), values.detach().float()
        found = known.first_ratios(values) <= scales
        if values.shape[1] <= known.order.shape[1]:
            return found
        rows, cubes = found.nonzero(as_tuple=True)
        if len(rows) > found.numel() * _MANY:
            return self.ratio(site, values) <= scales
        size = max(1, (_CPU_VALUES if values.device.type == "cpu" else _GPU_VALUES) // values.shape[1])
        for begin in range(0, len(rows), size):
            row, cube = rows[begin : begin + size], cubes[begin : begin + size]
            found[row, cube] = known.ratios(values[row], cube) <= scales[cube]
        return found

    def _on(self, site: Site, device: torch.device) -> _Constants:
        if (site, device) not in self._there:
            self._there[site, device] = self._made[site].on(device)
        return self._there[site, device]

    def _scales_on(self, device: torch.device, scoring: bool) -> Tensor:
        if (device, scoring) not in self._scales:
            self._scales[device, scoring] = (self.scoring if scoring else self.generation).to(device)
        return self._scales[device, scoring]


@dataclass(frozen=True)
class _Constants:
    """The boxes of C cubes at one site, on one device.

    ``centre`` and ``spread`` [C, W]; the spread of a neuron that never varied is infinite here. ``still`` [U] are the
    neurons that never varied in some box, ``middles`` and ``limits`` [C, U] their centres and tolerances, infinite in
    the other boxes: beyond one a ratio is infinite. ``order`` [C, K] are the neurons to look at first, and ``early_*``
    [C, K] the same of those.
    """

    centre: Tensor
    spread: Tensor
    still: Tensor
    middles: Tensor
    limits: Tensor
    order: Tensor
    early_centre: Tensor
    early_spread: Tensor
    early_limits: Tensor

    @classmethod
    def of(cls, boxes: Sequence[Box]) -> Self:
        centre, spread, tolerance = (
            torch.stack([getattr(box, name) for box in boxes]) for name in ("centre", "spread", "tolerance")
        )
        constant = spread == 0
        spread, limits = spread.masked_fill(constant, torch.inf), tolerance.masked_fill(~constant, torch.inf)
        still = constant.any(0).nonzero()[:, 0]
        least = min(len(box.order) for box in boxes)
        order = torch.stack([box.order[:least] for box in boxes])
        early = [one.gather(1, order) for one in (centre, spread, limits)]
        return cls(centre, spread, still, centre[:, still], limits[:, still], order, *early)

    def on(self, device: torch.device) -> _Constants:
        return _Constants(*(getattr(self, field.name).to(device) for field in fields(self)))

    def ratios(self, values: Tensor, cubes: slice | Tensor) -> Tensor:
        """[.., k] of values [.., 1, W] and k cubes, or [k] of values [k, W] and the cube of each."""
        found = ((values - self.centre[cubes]).abs_().div_(self.spread[cubes])).amax(-1)
        if len(self.still):
            apart = (values[..., self.still] - self.middles[cubes]).abs_()
            found = _unless(apart > self.limits[cubes], found)
        return found

    def first_ratios(self, values: Tensor) -> Tensor:
        """[n, C] over the neurons that shut out most, of values [n, W]: never more than the ratio over all."""
        apart = (values[:, self.order.flatten()].view(len(values), *self.order.shape) - self.early_centre).abs_()
        found = (apart / self.early_spread).amax(-1)
        return _unless(apart > self.early_limits, found) if len(self.still) else found


def _unless(left: Tensor, ratios: Tensor) -> Tensor:
    """[..] ratios, infinite where any neuron of left [.., W] has left the box; what is NaN stays NaN."""
    return torch.maximum(ratios, torch.zeros_like(ratios).masked_fill_(left.any(-1), torch.inf))


def _blocks(values: Tensor, cubes: int) -> tuple[int, int]:
    """How many rows of values [n, W] and how many cubes are compared at a time."""
    size = _CPU_VALUES if values.device.type == "cpu" else _GPU_VALUES
    together = max(1, min(cubes, size // max(1, values.numel())))
    return max(1, size // (together * max(1, values.shape[1]))), together


def unite(*several: Hypercubes) -> list[Hypercubes]:
    """As few detectors as will do: those on the same sites, and alike in whether they steer, become one.

    The order of the arguments is kept within each and, by the first of each, between them. Detectors on other sites
    stay apart, since they listen elsewhere.
    """
    alike: dict[tuple[tuple[Site, ...], bool], list[Hypercubes]] = {}
    for one in several:
        alike.setdefault((one.sites, one.steer is not None), []).append(one)
    return [
        Hypercubes(
            [cube for one in some for cube in one.cubes],
            generation=torch.cat([one.generation for one in some]).tolist(),
            scoring=torch.cat([one.scoring for one in some]).tolist(),
            refusals=[refusal for one in some for refusal in one.refusals],
            steer=torch.cat([one.steer for one in some if one.steer is not None]) if steers else None,
        )
        for (_, steers), some in alike.items()
    ]
