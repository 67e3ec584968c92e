"""How far training moved weights, against their own size: a run that moved none of them has made no erasure."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from expunge.errors import TrainingError

if TYPE_CHECKING:
    from torch import Tensor, nn

log = logging.getLogger("expunge")

LEAST = 1e-7
"""The share of a tensor's largest value below which a change counts as none: a float32 number has steps of about it."""
_PEFT = "base_model.model."


def shares_changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, float]:
    """The largest change in each tensor of ``after``, as a share of the largest value it had in ``before``.

    A tensor that was all zeros (a bias, often) is held against the largest value of all tensors.
    """
    sizes = {name: _largest(value) for name, value in before.items()}
    everywhere = max(sizes.values(), default=0.0) or 1.0
    return {
        name: _largest(value.cpu() - before[name].detach().cpu()) / (sizes[name] or everywhere)
        for name, value in after.items()
    }


def shares_added(model: nn.Module, tensors: Mapping[str, Tensor], scaling: float) -> dict[str, float]:
    """The same for each layer that LoRA ``tensors`` (PEFT's names) adapt: ``scaling`` B A against the layer's weight.

    Weights whose values cannot be seen (quantised, offloaded) count as 1 large.
    """
    shares = {}
    for name, first in tensors.items():
        module, found, _ = name.removeprefix(_PEFT).partition(".lora_A.")
        if not found:
            continue
        weight = model.get_submodule(module).weight
        seen = isinstance(weight, torch.Tensor) and weight.is_floating_point() and not weight.is_meta
        added = scaling * (tensors[name.replace(".lora_A.", ".lora_B.")].float() @ first.float())
        shares[module] = _largest(added) / ((_largest(weight) if seen else 0.0) or 1.0)  # type: ignore[arg-type]
    return shares


def check_moved(method: str, shares: Mapping[str, float], *, trained: int, steps: int, because: str = "") -> None:
    """Refuse a run in which no tensor changed by more than :data:`LEAST` of its largest value, and warn where fewer
    than half of the ``trained`` ones did.

    Raises:
        TrainingError: with what was changed at most, if anything was.
    """
    largest = max(shares.values(), default=0.0)
    moved = sum(share > LEAST for share in shares.values())
    if not moved:
        by = f" by more than {largest:.1g} of its tensor's largest value" if largest else ""
        raise TrainingError(
            f"{method}: training changed no weight{by} in {steps_in_words(steps)}.{because} "
            "Raise training.learning_rate or training.epochs."
        )
    if 2 * moved < trained:
        log.warning(
            "only %d of %d trained tensors changed, by at most %.1g of their largest value. "
            "Raise training.learning_rate or training.epochs.",
            moved,
            trained,
            largest,
        )


def steps_in_words(count: int) -> str:
    """``1 optimizer step``, ``2 optimizer steps``."""
    return f"{count} optimizer step{'' if count == 1 else 's'}"


def _largest(values: Tensor) -> float:
    """The largest absolute value, 0 of an empty tensor."""
    if not values.numel():
        return 0.0
    low, high = torch.aminmax(values.detach())
    return max(-float(low), float(high))
