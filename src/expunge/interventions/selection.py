"""Which neurons an intervention is for: those with the highest scores over all sites together."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from expunge.errors import ConfigError
from expunge.models.roles import Site


def highest(scores: Mapping[Site, Tensor], percent: float) -> dict[Site, Tensor]:
    """Indices [K], ascending, of the neurons among the top ``percent`` of all of them, by site.

    The number is rounded, and at least 1. Of equal scores the first site's and the lowest index go first. A score of
    -inf stands for a neuron that cannot be chosen, and that counts among all.

    Raises:
        ConfigError: fewer neurons can be chosen than are wanted.
    """
    flat = torch.cat([some.flatten() for some in scores.values()])
    wanted = max(1, round(percent / 100 * len(flat)))
    able = int((flat > -torch.inf).sum())
    if able < wanted:
        raise ConfigError(
            f"{percent:g}% of {len(flat)} neurons are {wanted}, and only {able} can be chosen: the others do not vary "
            "on these rows. Lower method.k, or give more and more varied rows."
        )
    order = torch.sort(flat, descending=True, stable=True).indices[:wanted].sort().values
    result: dict[Site, Tensor] = {}
    begin = 0
    for site, some in scores.items():
        end = begin + some.numel()
        mine = order[(order >= begin) & (order < end)] - begin
        if len(mine):
            result[site] = mine
        begin = end
    return result
