"""Distributions over a vocabulary as their likeliest tokens and the mass of the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TOP_K = 300
"""Tokens kept of a distribution: at a vocabulary of 32 000, 1 208 bytes of its 128 000 in float32."""

_NARROW = 2**16
_LEAST = -65504.0  # of float16: the log of a probability of 0


@dataclass(frozen=True)
class SparseRows:
    """n distributions over ``vocabulary`` tokens: ids [n, k] of the likeliest, likeliest first; logps [n, k] float16
    their log-probabilities in nats; tail [n] float32 the mass of all others, spread evenly over them.

    Ids of a vocabulary of at most 65 536 are held in 16 bits, wrapped (:meth:`token_ids` unwraps them).
    """

    ids: Tensor
    logps: Tensor
    tail: Tensor
    vocabulary: int

    def __len__(self) -> int:
        return len(self.tail)

    def __getitem__(self, chosen: Any) -> SparseRows:
        """The distributions of a slice, an index tensor or a mask."""
        return SparseRows(self.ids[chosen], self.logps[chosen], self.tail[chosen], self.vocabulary)

    @property
    def k(self) -> int:
        return self.ids.shape[1]

    @property
    def bytes_a_row(self) -> int:
        """What one distribution takes."""
        return self.k * (self.ids.element_size() + self.logps.element_size()) + self.tail.element_size()

    @property
    def token_ids(self) -> Tensor:
        """[n, k] int64."""
        wide = self.ids.long()
        return wide & (_NARROW - 1) if self.ids.dtype == torch.int16 else wide

    @property
    def probs(self) -> tuple[Tensor, Tensor]:
        """[n, k] float32 probabilities of the tokens kept, and [n] of all others: together 1, whatever rounding did."""
        top = self.logps.float().exp()
        total = top.sum(-1) + self.tail
        return top / total[:, None], self.tail / total

    @property
    def left_out(self) -> int:
        """The number of tokens that share the tail."""
        return self.vocabulary - self.k

    def dense(self) -> Tensor:
        """[n, V] float32 probabilities."""
        top, tail = self.probs
        share = (tail / max(self.left_out, 1))[:, None]
        return share.repeat(1, self.vocabulary).scatter_(1, self.token_ids, top)

    def to(self, device: torch.device | str) -> SparseRows:
        """The same on ``device``."""
        return SparseRows(self.ids.to(device), self.logps.to(device), self.tail.to(device), self.vocabulary)

    @classmethod
    def joined(cls, parts: Sequence[SparseRows]) -> SparseRows:
        """The rows of all parts, which are of one kind, one after the other."""
        return cls(
            torch.cat([one.ids for one in parts]),
            torch.cat([one.logps for one in parts]),
            torch.cat([one.tail for one in parts]),
            parts[0].vocabulary,
        )

    @classmethod
    def none(cls, vocabulary: int, k: int = TOP_K) -> SparseRows:
        """No distribution, of the kind of those with ``k`` tokens kept."""
        ids = _narrowed(torch.zeros((0, min(k, vocabulary)), dtype=torch.long), vocabulary)
        return cls(ids, torch.zeros(ids.shape, dtype=torch.float16), torch.zeros(0), vocabulary)

    @classmethod
    def of_tokens(cls, tokens: Tensor, vocabulary: int) -> SparseRows:
        """The distributions that give all to one token each, ``tokens`` [n] int64."""
        ids = _narrowed(tokens[:, None], vocabulary)
        return cls(ids, torch.zeros(ids.shape, dtype=torch.float16), torch.zeros(len(tokens)), vocabulary)


def sparse_rows(probs: Tensor, k: int = TOP_K) -> tuple[SparseRows, Tensor]:
    """Keep the ``k`` likeliest tokens of distributions, in host memory, and say what that loses.

    Args:
        probs: [n, V] float32, each row summing to 1.
        k: tokens kept; all where the vocabulary has no more.

    Returns:
        The rows, and [n] float32 KL(dense || kept) in nats, of float16's rounding and the even tail together.
    """
    vocabulary = probs.shape[1]
    top, ids = probs.topk(min(k, vocabulary), sorted=True)
    others = vocabulary - top.shape[1]
    logps = top.log().clamp(min=_LEAST).half()
    tail = (1 - top.double().sum(-1)).clamp(min=0).float() if others else torch.zeros_like(top[:, 0])
    kept = SparseRows(_narrowed(ids, vocabulary).cpu(), logps.cpu(), tail.cpu(), vocabulary)
    return kept, _lost(probs, top, kept.to(probs.device))


def divergence(logits: Tensor, teacher: SparseRows) -> Tensor:
    """[n] KL(teacher || softmax(logits)) in nats, at least 0 up to rounding; no gradient flows into the teacher.

    Args:
        logits: [n, V].
        teacher: n distributions, never made dense: of the tokens left out only the sum of log-probabilities counts.
    """
    top, tail = teacher.probs
    top, tail = top.to(logits.dtype), tail.to(logits.dtype)
    logps = logits.log_softmax(-1)
    kept = logps.gather(1, teacher.token_ids)
    value = (torch.xlogy(top, top) - top * kept).sum(-1)
    others = teacher.left_out
    if not others:
        return value
    mean = (logps.sum(-1) - kept.sum(-1)) / others
    return value + torch.xlogy(tail, tail / others) - tail * mean


def _narrowed(ids: Tensor, vocabulary: int) -> Tensor:
    return ids.to(torch.int16 if vocabulary <= _NARROW else torch.int32)


def _lost(probs: Tensor, top: Tensor, kept: SparseRows) -> Tensor:
    stored, tail = kept.probs
    value = (torch.xlogy(top, top) - top * stored.log().clamp(min=_LEAST)).sum(-1)
    if not kept.left_out:
        return value
    entropy = torch.xlogy(probs, probs).sum(-1) - torch.xlogy(top, top).sum(-1)
    rest = (1 - top.double().sum(-1)).clamp(min=0).float()
    share = (tail / kept.left_out).clamp(min=math.exp(-80))
    return value + entropy - rest * share.log()
