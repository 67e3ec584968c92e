"""Gradients that are known before the backward pass: added up part by part, and handed on when it comes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from expunge.models.halves import Forward


class Sink:
    """Where the gradient of a plain output head is added up over parts. Autograd would make a tensor as large as the
    head for every part and add it; a product that adds to a buffer in place does the same in one go."""

    def __init__(self, head: nn.Module, outside: list[nn.Parameter]) -> None:
        self.taken: list[nn.Parameter] = []
        self.grads: list[Tensor | None] = []
        self.forward: Forward | None = None
        weight = getattr(head, "weight", None)
        if type(head) is nn.Linear and any(weight is p for p in outside):
            self.taken = [p for p in head.parameters() if p.requires_grad]
            self.grads = [None] * len(self.taken)
            self.forward = self._linear
        self.head = head
        self.others = [p for p in outside if not any(p is t for t in self.taken)]

    def add(self, grad: Tensor, states: Tensor) -> None:
        """Add what logits with this gradient [n, V], made from states [n, H], owe to the head."""
        for place, parameter in enumerate(self.taken):
            into = self.grads[place]
            if into is None:  # a first product need not be added to zeros
                first = grad.sum(0) if parameter.ndim == 1 else grad.t() @ states
                self.grads[place] = first.float()
            elif parameter.ndim == 1:
                into += grad.sum(0)
            elif into.dtype == grad.dtype:
                into.addmm_(grad.t(), states)
            else:
                into += grad.t() @ states

    def _linear(self, states: Tensor) -> Tensor:
        logits: Tensor = _Head.apply(states, self.head.weight, self.head.bias, self)  # type: ignore[no-untyped-call]
        return logits


class _Head(torch.autograd.Function):
    """A linear layer whose weights' gradient goes into a sink."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, sink: Sink) -> Tensor:
        ctx.save_for_backward(states, weight)
        ctx.sink = sink
        return nn.functional.linear(states, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, None]:  # type: ignore[override]
        states, weight = ctx.saved_tensors
        ctx.sink.add(grad.flatten(0, -2), states.flatten(0, -2).to(grad.dtype))
        return (grad @ weight.to(grad.dtype)).to(states.dtype), None, None, None


class Attached(torch.autograd.Function):
    """A number whose gradients with respect to states and parameters are known already."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, grad: Tensor | None, grads: list[Tensor], states: Tensor, *parameters: Tensor
    ) -> Tensor:
        ctx.known = (grad, grads)
        ctx.dtypes = (states.dtype, [p.dtype for p in parameters])
        return value.clone()

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grad, grads = ctx.known
        del ctx.known  # so that autograd may keep these tensors instead of copying them
        of_states, of_parameters = ctx.dtypes
        if factor.device.type != "cpu" or factor != 1:  # asking a GPU would wait for it
            for one in [*grads, *([] if grad is None else [grad])]:
                one.mul_(factor)
        scaled = [g.to(dtype) for g, dtype in zip(grads, of_parameters, strict=True)]
        first = None if grad is None else grad.to(of_states)
        return None, None, None, first, *scaled
