"""What a running forward of a model holds: its tokens, their places in their rows, and what the cache has seen."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from expunge.models.halves import Halves, stood_in


@dataclass(frozen=True, eq=False)
class Passing:
    """One forward of a model's body.

    Attributes:
        ids: [B, S] its token ids; None where embeddings were passed.
        positions: [B, S] int64 the place of each token among the real tokens of its row, from 0; -1 on padding. The
            same for a row padded left or right, alone, with a cache, without one, or run chunk by chunk.
        seen: tokens of a row, padding included, that are in the cache already.
        cache: what was passed as ``past_key_values``; None where the body makes its own.
        packed: several texts lie in one row, as ``generate_batch`` and batches without padding pack them: their ends
            are told, or ``position_ids`` begin anew with each.
    """

    ids: Tensor | None
    positions: Tensor
    seen: int
    cache: Any = None
    packed: bool = False

    @property
    def real(self) -> Tensor:
        """[B, S] which tokens are no padding."""
        return self.positions >= 0


class _Local(threading.local):
    def __init__(self) -> None:
        self.passing: list[Passing | None] = []


class Watch:
    """Tells what is passing through a model's body; each thread sees its own forward."""

    def __init__(self) -> None:
        self._local = _Local()

    @property
    def current(self) -> Passing | None:
        """The body's running forward, of several inside each other the innermost; None outside of one."""
        return self._local.passing[-1] if self._local.passing else None


@contextmanager
def watching(model: Any) -> Iterator[Watch]:
    """Inside, the watch tells the forward that runs; afterwards nothing of it is left, also after an exception.

    The body is the module that holds the input embeddings. Watches of one model stack.

    Raises:
        ModelError: the model has no input embeddings or no head.
    """
    body = Halves(model).body
    signature = inspect.signature(body.forward)
    watch = Watch()

    # a graph cannot hold what differs from thread to thread
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def before(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        # a head that runs on states of before has no tokens before it
        passing = None if stood_in(body) else _passing(by_name(signature, arguments, named))
        watch._local.passing.append(passing)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def after(*_: Any) -> None:
        if watch._local.passing:  # not so where another hook failed before ours
            watch._local.passing.pop()

    with ExitStack() as stack:
        stack.callback(body.register_forward_pre_hook(before, with_kwargs=True).remove)
        stack.callback(body.register_forward_hook(after, always_call=True).remove)
        yield watch


def by_name(signature: inspect.Signature, arguments: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by their names, those that ``**`` catches among them."""
    given = signature.bind(*arguments, **named).arguments
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            given.update(given.pop(parameter.name, {}))
    return given


def _passing(given: dict[str, Any]) -> Passing | None:
    ids, embeddings, cache = given.get("input_ids"), given.get("inputs_embeds"), given.get("past_key_values")
    if embeddings is not None:
        ids = None
    tokens = embeddings if ids is None else ids
    if tokens is None:  # the model will say so
        return None
    seen = 0 if cache is None else int(cache.get_seq_length())  # a static cache's own length is a live tensor
    rows, width = tokens.shape[:2]
    places = given.get("position_ids")
    positions = _positions(given.get("attention_mask"), places, seen, rows, width, tokens.device)
    packed = given.get("cu_seq_lens_q") is not None or (not seen and restarts(places, positions >= 0))
    return Passing(ids, positions, seen, cache, packed)


def restarts(places: Tensor | None, real: Tensor) -> bool:
    """Whether ``position_ids`` [B, S] begin anew within a row: do not rise from a real token to the next one.

    Equal ones of 0 or 1 with which a row begins are taken for padding.

    Args:
        real: [B, S] which tokens are no padding, as far as it is known.
    """
    width = real.shape[1]
    if width < 2 or places is None or places.ndim != 2 or places.shape[1] != width:
        return False
    places = places.to(real.device)
    begun = (places != places[:, :1]).cumsum(1) > 0
    restarts = (places[:, 1:] <= places[:, :-1]) & real[:, 1:] & real[:, :-1]
    filled = (places[:, :1] <= 1) & ~begun[:, :-1]
    return bool((restarts & ~filled).any())


def _positions(mask: Any, places: Tensor | None, seen: int, rows: int, width: int, device: torch.device) -> Tensor:
    """[B, S] as in :class:`Passing`, from the mask where it tells padding, else from ``position_ids``."""
    now = slice(seen, seen + width)
    if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] >= now.stop:
        there = mask != 0
        return torch.where(there, there.cumsum(-1) - 1, -1)[:, now].expand(rows, width)
    visible = _visible(mask, width, now.stop)
    stand: Tensor | None = None
    if places is not None and places.ndim == 2 and places.shape[1] == width:
        stand = places.long().expand(rows, width)
    real: Tensor | None = None
    if visible is not None:
        # padding does not even attend to itself
        real = visible[:, :, now].diagonal(dim1=1, dim2=2).expand(rows, width)
        if stand is None:
            stand = visible[:, -1, :seen].sum(-1, keepdim=True) + real.cumsum(-1) - 1
    elif stand is not None and not _tells_nothing(mask):
        # `generate` gives padding on the left position 0, as the first token has
        follows = torch.cat([stand[:, 1:], torch.ones_like(stand[:, :1])], dim=1)
        real = (stand > 0) | (follows != 0)
    if stand is None:
        stand = torch.arange(now.start, now.stop, device=device).expand(rows, width)
    return stand if real is None else torch.where(real, stand, -1)


def _visible(mask: Any, width: int, keys: int) -> Tensor | None:
    """[B, S, K] which tokens each token attends to, from a mask that was made before the forward (static caches)."""
    masks = [mask.get("full_attention"), *mask.values()] if isinstance(mask, Mapping) else [mask]
    for one in masks:
        if isinstance(one, Tensor) and one.ndim == 4 and one.shape[-2] == width and one.shape[-1] >= keys:
            return one[:, 0] if one.dtype is torch.bool else one[:, 0] >= 0
    return None


def _tells_nothing(mask: Any) -> bool:
    return all(one is None for one in (mask.values() if isinstance(mask, Mapping) else [mask]))
