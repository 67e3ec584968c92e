"""Protects the cache with room: same keys and values as the default one, also after rows were reordered."""

from __future__ import annotations

import torch
from transformers.cache_utils import DynamicLayer

import zoo
from expunge.evaluation.cache import RoomyLayer, roomy_cache


def test_same_as_the_default_layer() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = RoomyLayer(room=4), DynamicLayer()
    for step, length in enumerate((2, 1, 1, 3)):  # the last one outgrows the room
        keys, values = (torch.randn(3, 2, length, 5, generator=generator) for _ in range(2))
        found = ours.update(keys, values)
        expected = theirs.update(keys, values)
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
        assert ours.get_seq_length() == theirs.get_seq_length()
        if step == 1:
            order = torch.tensor([2, 0, 1])
            ours.reorder_cache(order)
            theirs.reorder_cache(order)
        if step == 2:
            ours.batch_repeat_interleave(2)
            theirs.batch_repeat_interleave(2)
            ours.batch_select_indices(torch.tensor([0, 3, 5]))
            theirs.batch_select_indices(torch.tensor([0, 3, 5]))


def test_sliding_layers_stay_as_they_are() -> None:
    cache = roomy_cache(zoo.model("gemma2"), 10)
    assert cache is not None
    kinds = {type(layer).__name__ for layer in cache.layers}
    assert kinds == {"RoomyLayer", "DynamicSlidingWindowLayer"}
