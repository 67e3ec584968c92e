"""Whether two models began training at the same weights: what makes their hidden states speak one language."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from expunge.models.anatomy import decoder_layers

LEAST = 0.1
"""Mean cosine below which two models share no start. Matrices of n values that were drawn apart have one of about
n ** -0.5, far below."""


@torch.no_grad()
def weights_cosine(model: nn.Module, other: nn.Module) -> float | None:
    """The mean cosine over the decoder layers' matrices that both models have, each taken as one vector; 1 for equal
    models, about 0 for models whose first weights were drawn apart, however they were trained. None where no matrix can
    be read in both, as where one is quantised or offloaded."""
    ours, theirs = dict(_matrices(model)), dict(_matrices(other))
    found = [
        _cosine(ours[name], theirs[name]) for name in ours if name in theirs and ours[name].shape == theirs[name].shape
    ]
    return sum(found) / len(found) if found else None


def _matrices(model: nn.Module) -> Iterator[tuple[tuple[int, str], Tensor]]:
    """By layer and name there. PEFT's name for what it wraps is left out; its own matrices are in no other model."""
    for number, (_, layer) in enumerate(decoder_layers(model)):
        for name, parameter in layer.named_parameters():
            if parameter.ndim >= 2 and parameter.is_floating_point() and not parameter.is_meta:
                yield (number, name.replace(".base_layer.", ".")), parameter


def _cosine(one: Tensor, two: Tensor) -> float:
    left, right = one.flatten().float(), two.flatten().to(one.device).float()
    size = float(left.norm()) * float(right.norm())
    return float(left @ right) / size if size > 0 else 0.0
