"""Which parameters a run trains, and putting them back afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from expunge.errors import ConfigError, ModelError
from expunge.files import writing
from expunge.models.state import preserved

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from expunge.training.settings import TrainingSettings


_ALIGNED = 64  # bytes: where a tensor may begin in a file


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
    model: PreTrainedModel, names: Sequence[str], *, autocast: bool = False, spill: Path | None = None
) -> Iterator[dict[str, torch.Tensor]]:
    """Inside, the named parameters are trainable float32 copies and all others are frozen; the yielded tensors are the
    values they had. On exit the model is what it was, bit for bit, whatever happened inside.

    Small updates vanish when they are added to 16-bit weights, so training adds them up in float32. Unless forwards run
    under ``autocast``, the frozen parameters are widened too: layers do not mix precisions by themselves. Where a file
    ``spill`` is given, parameters that are float32 on a CPU already are trained in place, and their values wait in it,
    so that the model is in memory once; what training made must be copied before the exit.
    """
    parameters = dict(model.named_parameters())
    chosen = set(names)
    wide = widened_parameters(model, names, autocast=autocast)
    device = {name: parameters[name].device for name in wide}
    # On a GPU the originals wait in host memory; on a CPU the copy is what training works on.
    originals = {name: parameters[name].data.to("cpu") for name in wide}
    in_place: set[str] = set()
    if spill is not None:
        in_place = {name for name in wide if device[name].type == "cpu" and originals[name].dtype.itemsize >= 4}
        originals |= _spilled({name: originals[name] for name in wide if name in in_place}, spill)
    with preserved(model):
        try:
            for name, parameter in parameters.items():
                parameter.requires_grad_(name in chosen)
                if name in originals:
                    wider = torch.promote_types(parameter.dtype, torch.float32)
                    parameter.data = parameter.data.to(wider, copy=name not in in_place)
            yield {name: originals[name] for name in names}
        finally:
            for name in wide:
                parameters[name].grad = None
                if name in in_place:
                    parameters[name].data.copy_(originals[name])
                else:
                    parameters[name].data = originals[name].to(device[name])
            if spill is not None:
                spill.unlink(missing_ok=True)


def widened_parameters(model: PreTrainedModel, names: Sequence[str], *, autocast: bool) -> list[str]:
    """Which parameters training holds in float32 where ``names`` are trained (see :func:`float32_copies`)."""
    chosen = set(names)
    return [
        name
        for name, p in model.named_parameters()
        if name in chosen or (not autocast and p.is_floating_point() and p.dtype.itemsize < torch.float32.itemsize)
    ]


def _spilled(tensors: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """The same values in a file, mapped into memory: pages of it come and go as they are needed."""
    places, end = {}, 0
    with writing(path), path.open("wb") as file:
        for name, tensor in tensors.items():
            places[name] = (end, tensor.numel() * tensor.itemsize)
            file.write(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
            end += -(-places[name][1] // _ALIGNED) * _ALIGNED
            file.seek(end)
        file.truncate(max(end, 1))
    mapped = torch.from_file(str(path), shared=True, size=max(end, 1), dtype=torch.uint8)
    return {
        name: mapped[begin : begin + size].view(tensors[name].dtype).view(tensors[name].shape)
        for name, (begin, size) in places.items()
    }


def lora_values(model: PreTrainedModel, settings: TrainingSettings, patterns: Sequence[str] = ()) -> dict[str, Any]:
    """LoRA's configuration for ``settings``: every linear layer inside the body, or those that match ``patterns``."""
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not head
    }
    targets = _matching(list(linear), [p.removesuffix(".weight") for p in patterns])
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


def own_parameters(parameters: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters that a model has without the LoRA adapter around its layers, by the names they have then."""
    for name in parameters:
        if ".lora_" not in name:
            yield name.replace(".base_layer.", "."), parameters[name]


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
