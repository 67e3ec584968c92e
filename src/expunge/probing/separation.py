"""How far apart a neuron's activations on forget and on retain texts are: three scores, pure functions of moments.

signed        mean_f - mean_r
absolute      |mean_f - mean_r|
standardised  (mean_f - mean_r) / sqrt((var_f + var_r) / 2)

The standardised difference is in standard deviations (Cohen's d with both sides weighing the same; Cohen 1988). At 0.5
two normal densities of equal width share 80% of their area, at 2 a third, at 3 an eighth (twice the normal's tail
below -d/2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from expunge.errors import InputError
from expunge.models.roles import Site
from expunge.probing.result import ProbeResult
from expunge.probing.statistics import Moments

_ROUNDING = 1e-6  # a deviation that is no larger share of the mean is float32's rounding, no spread


def signed(forget: Moments, retain: Moments) -> Tensor:
    """[W] mean over forget values less mean over retain values, in the activation's own units."""
    _check_widths(forget, retain)
    return forget.mean - retain.mean


def absolute(forget: Moments, retain: Moments) -> Tensor:
    """[W] distance of the two means."""
    return signed(forget, retain).abs()


def pooled_deviation(forget: Moments, retain: Moments) -> Tensor:
    """[W] sqrt((var_f + var_r) / 2), each variance with n - 1.

    Raises:
        InputError: a side has fewer than two values.
    """
    _check_widths(forget, retain)
    return ((forget.variance + retain.variance) / 2).sqrt()


def constant(forget: Moments, retain: Moments) -> Tensor:
    """[W] boolean: neurons without spread on either side (float32's rounding aside), for which there is no
    standardised difference. Dead neurons are among them."""
    _check_widths(forget, retain)
    still = [side.deviation <= _ROUNDING * side.mean.abs() for side in (forget, retain)]
    return still[0] & still[1]


def standardised(forget: Moments, retain: Moments) -> Tensor:
    """[W] difference of the means in pooled standard deviations; NaN for :func:`constant` neurons, which are never
    divided by."""
    still = constant(forget, retain)
    spread = pooled_deviation(forget, retain).masked_fill(still, 1.0)
    return (signed(forget, retain) / spread).masked_fill(still, torch.nan)


def by_chance(threshold: float, forget: int, retain: int) -> float | None:
    """The share of neurons whose standardised difference would exceed ``threshold`` in size if forget and retain did
    not differ at all, with so many independent values of each; None for fewer than two.

    Exact for normal values of equal spread and ``forget == retain`` (Student's t); else the degrees of freedom are
    Welch's and Satterthwaite's, 4 / (1/(n_f - 1) + 1/(n_r - 1)).
    """
    if min(forget, retain) < 2:
        return None
    from scipy.stats import t

    freedom = 4 / (1 / (forget - 1) + 1 / (retain - 1))
    return float(2 * t.sf(threshold / math.sqrt(1 / forget + 1 / retain), freedom))


def ranked(scores: Sequence[Tensor], count: int) -> list[tuple[int, int]]:
    """The ``count`` highest of all scores as (which tensor, which neuron), highest first; of equal ones the first.

    NaN is no score and never chosen, so that fewer may come back.
    """
    flat = torch.cat([score.flatten() for score in scores]) if scores else torch.empty(0)
    known = int((~flat.isnan()).sum())
    order = flat.nan_to_num(nan=-torch.inf).argsort(descending=True, stable=True)[: min(count, known)]
    ends = torch.tensor([score.numel() for score in scores]).cumsum(0)
    owners = torch.searchsorted(ends, order, right=True)
    starts = ends - torch.tensor([score.numel() for score in scores])
    return list(zip(owners.tolist(), (order - starts[owners]).tolist(), strict=True)) if len(order) else []


@dataclass(frozen=True)
class SiteSeparation:
    """The scores of one site's W neurons, all [W] float64."""

    site: Site
    forget: Moments
    retain: Moments

    @cached_property
    def signed(self) -> Tensor:
        return signed(self.forget, self.retain)

    @cached_property
    def standardised(self) -> Tensor:
        return standardised(self.forget, self.retain)

    @cached_property
    def constant(self) -> Tensor:
        return constant(self.forget, self.retain)

    @cached_property
    def deviations(self) -> tuple[Tensor, Tensor]:
        """Standard deviations over forget and over retain values."""
        return self.forget.deviation, self.retain.deviation

    @property
    def width(self) -> int:
        return len(self.forget.mean)

    def beyond(self, threshold: float) -> int:
        """How many neurons have a standardised difference above ``threshold`` in size; constant ones never do."""
        return int((self.standardised.abs() > threshold).sum())


@dataclass(frozen=True)
class Separation:
    """Forget against retain at every site; ``left_out`` says why there are no figures for some experts. ``rows`` are
    how many forget and retain rows there were."""

    sites: tuple[SiteSeparation, ...]
    left_out: Mapping[Site, str]
    rows: tuple[int, int]


def separation(forget: ProbeResult, retain: ProbeResult) -> Separation:
    """Compare two probes of one model.

    Experts that were sent fewer than two tokens of a side are left out and named.

    Raises:
        InputError: the probes are of other models, sites or scopes, or a site that every row passes has fewer than two
            values on a side, so that there is no standard deviation.
    """
    problems = forget.differences(retain)
    if problems:
        raise InputError(
            f"these two probes cannot be compared: {', '.join(problems)} differ. Probe forget and retain rows with the "
            "same model and settings."
        )
    found: list[SiteSeparation] = []
    left_out: dict[Site, str] = {}
    for site, ours in forget.moments.items():
        theirs = retain.moments[site]
        few = {name: some.count for name, some in (("forget", ours), ("retain", theirs)) if some.count < 2}
        if not few:
            found.append(SiteSeparation(site, ours, theirs))
            continue
        told = " and ".join(f"{count} value{'' if count == 1 else 's'} of {name}" for name, count in few.items())
        if site.expert is None:
            raise InputError(
                f"{site.key} has {told} (pooling {forget.scope.pooling}, part {forget.scope.part}), and a "
                "standard deviation takes two. Give more rows, or pool over all tokens (pooling=all)."
            )
        left_out[site] = f"{told}; a standard deviation takes two"
    if not found:
        raise InputError(
            f"no site has two values of both forget and retain: {len(left_out)} experts were sent too few tokens. Give "
            "more rows, or pool over all tokens (pooling=all)."
        )
    return Separation(tuple(found), left_out, (forget.scope.rows, retain.scope.rows))


def _check_widths(forget: Moments, retain: Moments) -> None:
    if forget.mean.shape != retain.mean.shape:
        raise InputError(
            f"statistics of {len(forget.mean)} and {len(retain.mean)} neurons cannot be compared. Probe both with the "
            "same model and site."
        )
