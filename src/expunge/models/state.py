"""Leaving a model as it was found: modes, flags, modules and instance attributes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

_ATTRIBUTES = ("forward", "_original_forward", "gradient_checkpointing", "_gradient_checkpointing_func")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, every module's own mode again afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Whatever is done inside to the model's structure is undone: submodules replaced by adapters, ``requires_grad``,
    training modes, wrapped forwards. Parameter values and hooks are not touched."""
    modules = [
        (
            module,
            dict(module._modules),
            module.training,
            {key: module.__dict__[key] for key in _ATTRIBUTES if key in module.__dict__},
        )
        for module in model.modules()
    ]
    root_keys = set(model.__dict__)
    grads = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    use_cache = getattr(getattr(model, "config", None), "use_cache", None)
    try:
        yield
    finally:
        for module, children, training, attributes in modules:
            module._modules.clear()
            module._modules.update(children)
            module.training = training
            for key in _ATTRIBUTES:
                if key in attributes:
                    module.__dict__[key] = attributes[key]
                else:
                    module.__dict__.pop(key, None)
        for key in set(model.__dict__) - root_keys:
            if key.startswith(("peft", "_hf_peft", "hf_device_map", "is_parallelizable", "model_parallel")):
                del model.__dict__[key]
        for parameter, grad in grads:
            parameter.requires_grad_(grad)
            parameter.grad = None
        if use_cache is not None:
            model.config.use_cache = use_cache  # type: ignore[union-attr]
