"""From what the target says of swapped names to what it is taught: pure tensor functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

OFTEN = 0.1
"""A teacher gives a name where one of its tokens has more than this probability."""

LOWERED = 5.0
"""How far Who's Harry Potter lowers the logits of the substitute's name tokens."""


@dataclass(frozen=True)
class NameTokens:
    """The tokens that the names of N substitutes begin with, S at most.

    sources [N, S] int64 their ids, -1 where a substitute has fewer, no id twice in a row; destinations [N, S] the
    token of the subject's name that each stands for.
    """

    sources: Tensor
    destinations: Tensor

    @classmethod
    def of(cls, pairs: Sequence[dict[int, int]]) -> NameTokens:
        """From one mapping, source to destination, a substitute."""
        width = max((len(one) for one in pairs), default=0)
        sources = torch.full((len(pairs), width), -1, dtype=torch.long)
        destinations = torch.zeros((len(pairs), width), dtype=torch.long)
        for row, one in enumerate(pairs):
            sources[row, : len(one)] = torch.tensor(list(one), dtype=torch.long)
            destinations[row, : len(one)] = torch.tensor(list(one.values()), dtype=torch.long)
        return cls(sources, destinations)

    def to(self, device: torch.device | str) -> NameTokens:
        """The same on ``device``."""
        return NameTokens(self.sources.to(device), self.destinations.to(device))


def change_name_back(probs: Tensor, names: NameTokens, standing: Tensor, begun: Tensor) -> Tensor:
    """Give to the subject's name what the teachers give to their substitutes'.

    Where a name or a pronoun stands next in the text, what a teacher gives to its substitute's name tokens goes to the
    token that stands there. Elsewhere, where more than half of the teachers give one such token more than
    :data:`OFTEN`, it goes to the subject's own. Nothing is moved before the text has named the subject.

    Args:
        probs: [N, n, V] next-token probabilities of N teachers at n places; changed in place.
        names: what moves where.
        standing: [n] int64 the token that stands next, where it begins a mention of the subject or a pronoun; else -1.
        begun: [n] bool, the subject has been named, or is named next.

    Returns:
        [N, n, V] probabilities; each row's sum is what it was, up to rounding.

    Source: Liu et al. 2024, arXiv 2407.16997.
    """
    if not names.sources.shape[1]:
        return probs
    given = names.sources >= 0
    shape = (*probs.shape[:2], names.sources.shape[1])
    sources = names.sources.clamp(min=0)[:, None].expand(shape)
    mass = probs.gather(2, sources) * given[:, None]
    often = (mass.amax(-1) > OFTEN).float().mean(0) > 0.5
    anchored = standing >= 0
    moved = mass * (begun & (anchored | often))[None, :, None]
    own = names.destinations[:, None].expand(shape)
    destinations = torch.where(anchored[None, :, None], standing.clamp(min=0)[None, :, None], own)
    probs.scatter_add_(2, sources, -moved)
    return probs.scatter_add_(2, destinations, moved)


def aggregate(probs: Tensor) -> Tensor:
    """[n, V] the mean of N teachers [N, n, V], without what rounding left below 0, summing to 1."""
    mean = probs.mean(0).clamp_(min=0)
    return mean.div_(mean.sum(-1, keepdim=True))


def whp_choice(logits: Tensor, names: NameTokens, begun: Tensor, lowered: float = LOWERED) -> Tensor:
    """[n] the token that Who's Harry Potter teaches at each place.

    Args:
        logits: [n, V] of the target on the text with the one substitute's name.
        names: [1, S] the substitute's name tokens.
        begun: [n] bool as in :func:`change_name_back`; there their logits are lowered.
        lowered: by how much.

    Returns:
        [n] int64 token ids.

    Source: Eldan and Russinovich 2023, arXiv 2310.02238, as Liu et al. 2024, arXiv 2407.16997, restate it.
    """
    sources = names.sources[0][names.sources[0] >= 0]
    changed = logits.clone()
    changed[:, sources] -= lowered * begun[:, None].to(logits.dtype)
    return changed.argmax(-1)
