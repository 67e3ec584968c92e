"""Listening at sites of a model while it runs, and changing what passes there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from expunge.models.experts import listening
from expunge.models.roles import Site

Tap = Callable[[Tensor, Tensor | None], Tensor | None]
"""``tap(values, tokens)`` with the values as the module sees them ([B, S, W] or [B * S, W]) and tokens None; or an
expert's values [n, W] and the places [n] of its tokens in the batch, row after row. What it returns, if anything, takes
the values' place. Some models write over the values afterwards: copy what is to be kept."""


@contextmanager
def tapped(model: nn.Module, taps: Mapping[Site, Tap]) -> Iterator[None]:
    """Inside, every tap is called whenever the model's forward passes its site; afterwards nothing of it is left, also
    after an exception. Taps of one site's neighbours see what it changed.

    Hooks that are added to a compiled model are not called: compile inside, or call :func:`forget_compiled` before and
    after.
    """
    routed: dict[str, dict[str, dict[int, Tap]]] = {}
    with ExitStack() as stack:
        for site, tap in taps.items():
            if site.expert is None:
                handle = _hooked(model.get_submodule(site.module), site, tap)
                stack.callback(handle.remove)
            else:
                owner, _, name = site.module.rpartition(".")
                kind = "keys" if name == "down_proj" else "activations"
                routed.setdefault(owner, {"keys": {}, "activations": {}})[kind][site.expert] = tap
        for owner, listeners in routed.items():
            stack.enter_context(listening(model.get_submodule(owner), **listeners))
        yield


def _hooked(module: nn.Module, site: Site, tap: Tap) -> Any:
    def before(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if arguments:
            changed = tap(arguments[0], None)
            return None if changed is None else ((changed, *arguments[1:]), named)
        first = next(iter(named))
        changed = tap(named[first], None)
        return None if changed is None else (arguments, {**named, first: changed})

    def after(_: nn.Module, __: Any, output: Any) -> Any:
        several = isinstance(output, tuple)
        changed = tap(output[0] if several else output, None)
        return changed if changed is None or not several else (changed, *output[1:])

    if site.reads == "input":
        return module.register_forward_pre_hook(before, with_kwargs=True)
    return module.register_forward_hook(after)


def forget_compiled() -> None:
    """Throw away what ``torch.compile`` holds, if anything: a compiled model runs on without hooks that came, and with
    hooks that went, since it was compiled. It is compiled anew when it runs next."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
