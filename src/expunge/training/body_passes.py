"""The body over rows of different lengths in several passes, each padded to its own longest row, under one loss.

Rows that a loss compares with each other (an answer and the refusal that is preferred to it) cannot be dealt to
different forwards, and may differ much in length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from expunge.training.schedule import cuts

_MOST_PASSES = 3


def passes(lengths: Sequence[int], worth: int | None) -> list[list[int]]:
    """Rows of these token counts in groups, where each group saves more than ``worth`` tokens of padding."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    if worth is None:
        return [order]
    return [order[begin:end] for begin, end in pairwise(cuts([lengths[row] for row in order], worth, _MOST_PASSES))]


def states_in_passes(
    body: Callable[..., Tensor], inputs: Mapping[str, Any], wanted: Tensor, groups: Sequence[Sequence[int]]
) -> Tensor:
    """[N, H] states at the places of ``wanted`` [B, S] in row order, ``body(**inputs)`` -> [b, s, H] run once a group.

    ``inputs`` are padded on the right, [B, S] each (a wrapper may add others, handed on as they are). Every pass but
    the first ends in a backward pass of its own: in a common one autograd would hold the gradients of a pass until it
    has those of the next to add, a second copy of every parameter's.
    """
    if len(groups) == 1:
        return body(**inputs)[wanted]
    number = wanted.flatten().cumsum(0).view_as(wanted) - 1  # of each place among the wanted ones
    found: list[Tensor] = []
    places: list[Tensor] = []
    for rows in groups:
        chosen = torch.tensor(rows, device=wanted.device)
        length = int(inputs["attention_mask"][chosen].sum(1).max())
        here = wanted[chosen, :length]
        some = {name: value[chosen, :length] if isinstance(value, Tensor) else value for name, value in inputs.items()}
        states = body(**some)[here]
        found.append(apart(states) if found else states)
        places.append(number[chosen, :length][here])
    return torch.cat(found)[torch.cat(places).argsort()]


def apart(states: Tensor) -> Tensor:
    """The same values; what lies below them is gone through by a backward pass of its own."""
    if not states.requires_grad:
        return states
    result: Tensor = _Apart.apply(states.detach().requires_grad_(), [states])  # type: ignore[no-untyped-call]
    return result


class _Apart(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, stand_in: Tensor, held: list[Tensor]) -> Tensor:
        ctx.held = held  # in a list, so that autograd sees no connection
        return stand_in.view_as(stand_in)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None]:  # type: ignore[override]
        torch.autograd.backward(ctx.held.pop(), grad)
        return None, None
