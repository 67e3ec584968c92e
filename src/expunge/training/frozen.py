"""The frozen target beside a training run: from the store, through the adapter's off switch, or as a second model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from expunge.data.batches import Batch
from expunge.data.encode import Example
from expunge.errors import ModelError
from expunge.models.halves import Forward, Halves
from expunge.models.logprobs import label_logps
from expunge.models.state import evaluating
from expunge.training.references import LOGPS, STATES, ReferenceStore, layer_kind
from expunge.training.scoring import SIDES, Layout, Reference

if TYPE_CHECKING:
    from expunge.methods.weight_method import WeightMethod


class FrozenTarget(Protocol):
    """Something that says what the target says about a batch."""

    def of(self, examples: Sequence[Example], layout: Layout, batch: Batch) -> Reference:
        """``examples`` are the batch's rows in its order."""


def kinds_of(method: WeightMethod) -> dict[str, set[str]]:
    """What the store must hold, by side."""
    found: dict[str, set[str]] = {}
    for side in SIDES:
        kinds = {LOGPS} if side in method.reference_logps else set()
        if side in method.reference_logits:
            kinds.add(STATES if method.reads_layer is None else layer_kind(method.reads_layer))
        found[side] = kinds
    return found


def frozen_head(head: nn.Module) -> Forward | None:
    """The head as it is now; None where it is not trained, and so stays what it is."""
    if not any(p.requires_grad for p in head.parameters()):
        return None
    with torch.no_grad():
        kept = copy.deepcopy(head).requires_grad_(False).eval()
    forward: Forward = kept.forward
    return forward


def check_beside_head(halves: Halves) -> None:
    """Refuse to train what logits depend on beside body and head: no copy of it would speak for the frozen target.

    Raises:
        ModelError: the trained parameters, by name.
    """
    in_head = {id(p) for p in halves.head.parameters()}
    beside = {id(p) for p in halves.outside() if p.requires_grad} - in_head
    names = [name for name, p in halves.model.named_parameters() if id(p) in beside]
    if names:
        raise ModelError(
            f"{', '.join(names[:4])}{' ..' if len(names) > 4 else ''}: trained, beside the body and the output head of "
            f"{type(halves.model).__name__}, and so the frozen target's distributions cannot be made from "
            "its states. Leave them out (training.layers)."
        )


@dataclass(frozen=True)
class StoredTarget:
    """Reads what :func:`expunge.training.references.fill` computed."""

    store: ReferenceStore
    method: WeightMethod
    head: Forward | None

    def of(self, examples: Sequence[Example], layout: Layout, batch: Batch) -> Reference:
        device, layer = batch.input_ids.device, self.method.reads_layer
        logps = states = layers = None
        if self.method.reference_logps:
            logps = torch.full((len(examples),), torch.nan)
            for row, example in self._rows(examples, layout, self.method.reference_logps):
                logps[row] = self.store.get(LOGPS, example)
        wanted = self.method.reference_logits
        if wanted and layer is None:
            sizes = [example.answer_length for example in examples]
            states = self._gathered(STATES, sizes, examples, layout).to(device)
        elif wanted and layer is not None:
            sizes = [len(example.input_ids) for example in examples]
            layers = self._gathered(layer_kind(layer), sizes, examples, layout).to(device)
        return Reference(None if logps is None else logps.to(device), states, self.head, layers)

    def _gathered(self, kind: str, sizes: list[int], examples: Sequence[Example], layout: Layout) -> Tensor:
        """[sum of sizes, H] the rows' values one after the other, zeros for the sides that have none."""
        found = dict(self._rows(examples, layout, self.method.reference_logits))
        values = {row: self.store.get(kind, example) for row, example in found.items()}
        if not values:
            return torch.zeros(sum(sizes), 1)
        some = next(iter(values.values()))
        rows = (values.get(row, some.new_zeros(1).expand(size, some.shape[-1])) for row, size in enumerate(sizes))
        return torch.cat(list(rows))

    @staticmethod
    def _rows(examples: Sequence[Example], layout: Layout, sides: Any) -> list[tuple[int, Example]]:
        spans = [layout.rows_of(number) for number, side in enumerate(SIDES) if side in sides]
        return [(row, examples[row]) for begin, end in spans for row in range(begin, end)]


@dataclass(frozen=True)
class LiveTarget:
    """Runs the target beside every training forward: ``halves`` are those of a second copy of the model, or of the
    trained one with its adapter off (``off`` is the context that switches it)."""

    halves: Halves
    method: WeightMethod
    most_tokens: int
    head: Forward | None = None
    layers: Sequence[nn.Module] = ()
    off: Callable[[], AbstractContextManager[Any]] | None = None
    autocast: Callable[[], AbstractContextManager[Any]] | None = None

    @torch.no_grad()
    def of(self, examples: Sequence[Example], layout: Layout, batch: Batch) -> Reference:  # noqa: ARG002
        inputs: dict[str, Any] = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        with ExitStack() as stack:
            for context in (self.off, self.autocast):
                if context is not None:
                    stack.enter_context(context())
            stack.enter_context(evaluating(self.halves.model))
            if self.method.reads_layer is not None:
                states = self.halves.layer_states(list(self.layers), self.method.reads_layer, **inputs)
                return Reference(layer_states=states[batch.attention_mask.bool()])
            states = self.halves.states(**inputs)[:, :-1][batch.answer_mask[:, 1:]]
            logps = None
            if self.method.reference_logps:
                labels = batch.input_ids[:, 1:][batch.answer_mask[:, 1:]]
                tokens = label_logps(self.halves, states, labels, self.most_tokens)
                logps = torch.stack([part.sum() for part in tokens.split(list(layout.lengths))])
        return Reference(logps, states, self.head)
