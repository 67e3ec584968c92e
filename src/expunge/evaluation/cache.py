"""A key/value cache that writes in place.

The default cache concatenates every layer's keys and values at every token, which copies all of them each time; for
long answers of small models that is most of the time spent. This one reserves room once and hands out views.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer


class RoomyLayer(DynamicLayer):
    """One layer's keys and values [B, heads, T, head_dim], as views of buffers with room for ``room`` tokens."""

    def __init__(self, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.room = room
        self._buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the new tokens' keys and values; returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        if self._buffers is None or not self._holds(self._buffers[0], after):
            self._buffers = (
                self._buffer(self.keys, key_states, after),
                self._buffer(self.values, value_states, after),
            )
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., before:after, :] = new
        self.keys, self.values = (buffer[..., :after, :] for buffer in self._buffers)
        return self.keys, self.values

    def _holds(self, buffer: torch.Tensor, length: int) -> bool:
        """Whether the buffer has the room, and is still what ``keys`` shows (rows may have been reordered since)."""
        return (
            length <= buffer.shape[-2]
            and self.keys is not None
            and self.keys.data_ptr() == buffer.data_ptr()
            and self.keys.shape[0] == buffer.shape[0]
        )

    def _buffer(self, old: torch.Tensor | None, new: torch.Tensor, length: int) -> torch.Tensor:
        room = max(self.room, length)
        buffer = new.new_empty((*new.shape[:-2], room, new.shape[-1]))
        if old is not None and old.numel():
            buffer[..., : old.shape[-2], :] = old
        return buffer


def roomy_cache(model: PreTrainedModel, room: int) -> DynamicCache | None:
    """An empty cache for one call of ``model.generate`` over at most ``room`` tokens; layers that keep something else
    than all keys and values (sliding windows, states) stay as the model has them. None for a model without such a
    cache: it makes its own."""
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        return None
    cache = DynamicCache(config=model.config.get_text_config())
    if not cache.layers:
        return None
    cache.layers = [RoomyLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
