"""Which tokens corrupted embeddings are nearest to: whether a prompt can be read back off them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

_BLOCK = 2**26  # similarities that are in memory at once
_COORDINATES = 128  # that are compared, spread over all of them

Scores = Callable[[Tensor], Tensor]
"""For vectors [T, D] how near each token of the vocabulary is, [T, V]; -inf where nothing can be said."""


@dataclass(frozen=True)
class NearestTokens:
    """Of ``tokens`` corrupted ones, the shares (0 to 1) whose nearest token is the original one in its place.

    Nearest by cosine, by Euclidean distance, or by how many ``coordinates`` are the same, which great noise in a few
    dimensions does not hide. ``_anywhere``: that are the nearest token of some corrupted one of their prompt, each
    counted once, which a change of order does not hide.
    """

    tokens: int
    cosine: float
    euclidean: float
    coordinates: float
    cosine_anywhere: float
    euclidean_anywhere: float
    coordinates_anywhere: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def nearest_tokens(embeddings: Sequence[Tensor], ids: Sequence[Tensor], table: Tensor) -> NearestTokens | None:
    """Look each corrupted embedding up among the clean ones of the whole vocabulary; None where there is none.

    Computed in float32. Where several tokens are equally near, the original counts if it is among them, but nothing is
    near to a zero vector by cosine, or by coordinates to one that shares none.

    Args:
        embeddings: for each prompt the corrupted embeddings [T, D] of its flagged tokens.
        ids: for each prompt the tokens [T] that they were.
        table: [V, D] the embeddings of all tokens.
    """
    total = sum(len(one) for one in ids)
    if not total:
        return None
    table = table.detach().float()
    shares: dict[str, float] = {}
    for way, scores in _ways(table).items():
        place = anywhere = 0
        for values, tokens in zip(embeddings, ids, strict=True):
            own = tokens.to(table.device)
            near = _nearest(values.detach().float().to(table.device), own, scores, len(table))
            place += int((near == own).sum())
            anywhere += (Counter(near.tolist()) & Counter(own.tolist())).total()
        shares |= {way: place / total, f"{way}_anywhere": anywhere / total}
    return NearestTokens(total, **shares)


def _ways(table: Tensor) -> dict[str, Scores]:
    lengths = table.norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
    directions = table / lengths[:, None]
    some = torch.linspace(0, table.shape[1] - 1, min(_COORDINATES, table.shape[1]), device=table.device).round().long()
    columns = table[:, some]

    def cosine(values: Tensor) -> Tensor:
        near: Tensor = values @ directions.T
        return near.masked_fill(values.norm(dim=1, keepdim=True) == 0, -torch.inf)

    def euclidean(values: Tensor) -> Tensor:  # the square is |e|^2 - 2 (e t - |t|^2 / 2)
        near: Tensor = values @ table.T - lengths**2 / 2
        return near

    def coordinates(values: Tensor) -> Tensor:
        same = len(some) - torch.cdist(values[:, some], columns, p=0)
        return same.masked_fill(same == 0, -torch.inf)

    return {"cosine": cosine, "euclidean": euclidean, "coordinates": coordinates}


def _nearest(values: Tensor, tokens: Tensor, scores: Scores, count: int) -> Tensor:
    """[T] the token of ``count`` that each of ``values`` [T, D] is nearest to, the one of ``tokens`` where that is one
    of several; -1: none."""
    found = []
    step = max(1, _BLOCK // count)
    for some, own in zip(values.split(step), tokens.split(step), strict=True):
        near = scores(some)
        best, which = near.max(1)
        mine = near.gather(1, own[:, None])[:, 0]
        found.append(torch.where(mine >= best, own, which).masked_fill(best == -torch.inf, -1))
    return torch.cat(found) if found else tokens
