"""Which parameters a run trains, and putting them back afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch

from expunge.errors import ConfigError, ModelError
from expunge.models.state import preserved

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from expunge.training.settings import TrainingSettings


def select_parameters(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Names of the floating-point parameters that match one of ``patterns`` (shell wildcards); all without patterns."""
    names = [name for name, parameter in model.named_parameters() if parameter.is_floating_point()]
    chosen = _matching(names, patterns)
    parameters = dict(model.named_parameters())
    meta = [name for name in chosen if parameters[name].is_meta]
    if meta:
        raise ModelError(
            f"{len(meta)} parameters are offloaded ({meta[0]}, ..) and cannot be trained. "
            "Load the model without offloading, or train fewer layers (training.layers)."
        )
    return chosen


@contextmanager
def float32_copies(
    model: PreTrainedModel, names: Sequence[str], *, autocast: bool = False
) -> Iterator[dict[str, torch.Tensor]]:
    """Inside, the named parameters are trainable float32 copies and all others are frozen; the yielded tensors are the
    values they had. On exit the model is what it was, bit for bit, whatever happened inside.

    Small updates vanish when they are added to 16-bit weights, so training adds them up in float32. Unless forwards run
    under ``autocast``, the frozen parameters are widened too: layers do not mix precisions by themselves.
    """
    parameters = dict(model.named_parameters())
    chosen = set(names)
    wide = [
        name
        for name, p in parameters.items()
        if name in chosen or (not autocast and p.is_floating_point() and p.dtype.itemsize < torch.float32.itemsize)
    ]
    device = {name: parameters[name].device for name in wide}
    # On a GPU the originals wait in host memory; on a CPU the copy is what training works on.
    originals = {
        name: parameters[name].data.to("cpu") if device[name].type != "cpu" else parameters[name].data for name in wide
    }
    with preserved(model):
        try:
            for name, parameter in parameters.items():
                parameter.requires_grad_(name in chosen)
                if name in originals:
                    wider = torch.promote_types(parameter.dtype, torch.float32)
                    parameter.data = parameter.data.to(wider, copy=True)
            yield {name: originals[name] for name in names}
        finally:
            for name in wide:
                parameters[name].grad = None
                parameters[name].data = originals[name].to(device[name])


def lora_values(model: PreTrainedModel, settings: TrainingSettings) -> dict[str, Any]:
    """LoRA's configuration for ``settings``: every linear layer inside the body, or those that match the patterns."""
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not head
    }
    patterns = [p.removesuffix(".weight") for p in settings.layers]
    targets = _matching(list(linear), patterns)
    return {
        "peft_type": "LORA",
        "r": settings.lora_rank,
        "lora_alpha": settings.lora_alpha,
        "lora_dropout": settings.lora_dropout,
        "target_modules": sorted(targets),
        "fan_in_fan_out": any(isinstance(linear[name], Conv1D) for name in targets),
        "task_type": "CAUSAL_LM",
        "bias": "none",
    }


def _matching(names: list[str], patterns: Sequence[str]) -> list[str]:
    chosen = [n for n in names if not patterns or any(fnmatchcase(n, pattern) for pattern in patterns)]
    unused = [p for p in patterns if not any(fnmatchcase(name, p) for name in names)]
    if unused or not chosen:
        what = ", ".join(repr(p) for p in unused or patterns)
        sample = ", ".join(names[:: max(1, len(names) // 8)][:8])
        raise ConfigError(
            f"training.layers: {what} matches no parameter of this model. "
            f"Patterns are shell wildcards over the whole name, such as '*.layers.3.*'. Some names: {sample}."
        )
    return chosen
