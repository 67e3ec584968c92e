"""Leaving a model as it was found: modes, flags, modules and instance attributes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

APPLIED = "_expunge_applied"
_ATTRIBUTES = (
    "forward",
    "_original_forward",
    "_compiled_call_impl",
    "gradient_checkpointing",
    "_gradient_checkpointing_func",
    "_is_accelerate_prepared",  # accelerate would not wrap a model a second time, for mixed precision or DDP
    "_require_grads_hook",
    "_require_grads_hooks",
)
_INPUT_HOOK = "make_inputs_require_grads"  # what transformers calls the hook that gradient checkpointing leaves behind


@contextmanager
def preserved_randomness() -> Iterator[None]:
    """The caller's random numbers (Python's, NumPy's, torch's) go on afterwards as if nothing had drawn inside."""
    import random

    import numpy as np
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


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
    gradients, training modes, wrapped forwards, the hook of gradient checkpointing. Parameter values and other hooks
    are not touched."""
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
    grads = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    for parameter, _, _ in grads:
        parameter.grad = None
    hooks = {id(module): set(module._forward_hooks) for module in model.modules()}
    use_cache = getattr(getattr(model, "config", None), "use_cache", None)
    try:
        yield
    finally:
        for module, children, training, attributes in modules:
            module._modules.clear()
            module._modules.update(children)
            for number, hook in list(module._forward_hooks.items()):
                if number not in hooks[id(module)] and getattr(hook, "__name__", "") == _INPUT_HOOK:
                    del module._forward_hooks[number]
            module.training = training
            for key in _ATTRIBUTES:
                if key in attributes:
                    module.__dict__[key] = attributes[key]
                else:
                    module.__dict__.pop(key, None)
        for key in set(model.__dict__) - root_keys:
            if key.startswith(("peft", "_hf_peft", "hf_device_map", "is_parallelizable", "model_parallel")):
                del model.__dict__[key]
        for parameter, requires_grad, grad in grads:
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad
        if use_cache is not None:
            model.config.use_cache = use_cache  # type: ignore[union-attr]


@contextmanager
def marked(model: nn.Module, kind: str) -> Iterator[None]:
    """Inside, ``model._expunge_applied`` names the kinds of the erasures that are applied, for scores to say; they may
    be lifted in any order."""
    model.__dict__[APPLIED] = (*model.__dict__.get(APPLIED, ()), kind)
    try:
        yield
    finally:
        left = list(model.__dict__.get(APPLIED, ()))
        if kind in left:
            del left[len(left) - 1 - left[::-1].index(kind)]
        if left:
            model.__dict__[APPLIED] = tuple(left)
        else:
            model.__dict__.pop(APPLIED, None)
