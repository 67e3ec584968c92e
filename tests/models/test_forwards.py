"""Protects what is known of a running forward: tokens, places in their rows and cache length, however it is run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

import zoo
from detecting import PAD, padded
from expunge.models.forwards import Passing, _positions, watching
from expunge.models.halves import Halves
from fitting import snapshot

ROWS = ([5, 6, 7, 8, 9], [10, 11])
LEFT = [[0, 1, 2, 3, 4], [-1, -1, -1, 0, 1]]  # by the definition: counted among the row's real tokens
RIGHT = [[0, 1, 2, 3, 4], [0, 1, -1, -1, -1]]


@contextmanager
def noted(model: Any) -> Iterator[list[Passing]]:
    """What a watch told in each forward."""
    found: list[Passing] = []
    with watching(model) as watch:

        def note(*_: Any) -> None:
            assert watch.current is not None
            found.append(watch.current)

        handle = Halves(model).body.register_forward_pre_hook(note)
        with torch.no_grad():
            yield found
        handle.remove()
        assert watch.current is None


def places(found: list[Passing]) -> list[list[list[int]]]:
    return [passing.positions.tolist() for passing in found]


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_positions_are_the_same_for_every_padding_and_every_way_to_run(family: str) -> None:
    model: Any = zoo.model(family)
    settings = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "pad_token_id": PAD}
    steps = [LEFT, [[5], [2]], [[6], [3]]]
    with noted(model) as found:
        model(**padded(ROWS), use_cache=False)
        model(**padded(ROWS, "right"), use_cache=False)
        model(torch.tensor(ROWS[:1]), use_cache=False)
    assert places(found) == [LEFT, RIGHT, LEFT[:1]]
    assert [passing.seen for passing in found] == [0, 0, 0]
    with noted(model) as found:
        model.generate(**padded(ROWS), **settings)
        model.generate(**padded(ROWS), cache_implementation="static", **settings)
    assert places(found) == steps * 2
    assert [passing.seen for passing in found] == [0, 5, 6] * 2
    assert all(p.ids is not None and p.ids.shape == p.positions.shape and p.real.equal(p.positions >= 0) for p in found)
    with noted(model) as found:
        model.generate(torch.tensor(ROWS[:1]), **settings)
        model.generate(torch.tensor(ROWS[:1]), cache_implementation="static", **settings)
    assert places(found) == [LEFT[:1], [[5]], [[6]]] * 2
    with noted(model) as found:
        model.generate(**padded(ROWS), prefill_chunk_size=2, **settings)
        model.generate(**padded(ROWS), use_cache=False, **settings)
    chunks = [[[0, 1], [-1, -1]], [[2, 3], [-1, 0]], [[4], [1]]]
    whole = [[[*range(n)], [-1, -1, -1, *range(n - 3)]] for n in (5, 6, 7)]
    assert places(found) == chunks + steps[1:] + whole


def test_a_cache_of_the_callers_own_is_counted_with_and_without_a_mask() -> None:
    model: Any = zoo.model("llama")
    cache = DynamicCache(config=model.config)
    with noted(model) as found:
        model(torch.tensor([[5, 6, 7]]), past_key_values=cache)
        model(torch.tensor([[8, 9]]), past_key_values=cache)
        model(torch.tensor([[8]]), past_key_values=cache, attention_mask=torch.tensor([[0, 1, 1, 1, 1, 1]]))
    assert places(found) == [[[0, 1, 2]], [[3, 4]], [[4]]]
    assert [passing.seen for passing in found] == [0, 3, 5]
    assert all(passing.cache is cache for passing in found)


def test_embeddings_have_places_and_no_ids() -> None:
    model: Any = zoo.model("gpt2")
    batch = padded(ROWS)
    embeddings = model.get_input_embeddings()(batch["input_ids"])
    with noted(model) as found:
        model(inputs_embeds=embeddings, attention_mask=batch["attention_mask"])
    assert found[0].ids is None
    assert places(found) == [LEFT]


def test_packed_rows_are_told() -> None:
    model: Any = zoo.model("llama")
    starts = torch.tensor([0, 2, 5], dtype=torch.int32)
    with noted(model) as found:
        model(torch.tensor([[5, 6, 7, 8, 9]]), position_ids=torch.tensor([[0, 1, 0, 1, 2]]), cu_seq_lens_q=starts)
        model(torch.tensor([[5, 6, 7, 8, 9]]))
    assert [passing.packed for passing in found] == [True, False]
    assert places(found[:1]) == [[[0, 1, 0, 1, 2]]]


@pytest.mark.parametrize(
    ("positions", "mask", "packed"),
    [([0, 1, 0, 1, 2], None, True),  # two texts, of 2 and 3 tokens
     ([0, 0, 1, 0, 1], None, True),  # three: 1, 2 and 2; leading zeros alone might be padding
     ([0, 1, 2, 2, 3], None, True),  # the second one begins at 2, as a cut of a longer text
     ([0, 1, 0, 1, 2], [1, 1, 1, 1, 1], True),  # flash attention takes a mask of ones for none
     ([3, 4, 5, 6, 7], None, False),  # one text that begins later
     ([0, 0, 0, 1, 2], None, False), ([1, 1, 0, 1, 2], None, False),  # padding on the left without a mask
     ([0, 0, 0, 1, 2], [0, 0, 1, 1, 1], False), ([1, 1, 0, 1, 2], [0, 0, 1, 1, 1], False),  # as generate fills it
     ([0, 1, 2, 0, 0], [1, 1, 1, 0, 0], False), ([0, 1, 2, 2, 2], [1, 1, 1, 0, 0], False)],
)  # fmt: skip
def test_positions_that_begin_anew_are_packed_rows(positions: list[int], mask: list[int] | None, packed: bool) -> None:
    model: Any = zoo.model("llama")
    given = {"attention_mask": torch.tensor([mask] * 2)} if mask else {}
    for rows in (1, 2):  # one row of positions holds for all
        with noted(model) as found:
            model(torch.tensor([[5, 6, 7, 8, 9]] * 2), position_ids=torch.tensor([positions] * rows), **given)
        assert [passing.packed for passing in found] == [packed]


def test_a_row_that_goes_on_from_a_cache_is_not_packed() -> None:
    model: Any = zoo.model("llama")
    cache = DynamicCache(config=model.config)
    with noted(model) as found:
        model(torch.tensor([[5, 6, 7]]), past_key_values=cache, position_ids=torch.tensor([[0, 1, 2]]))
        model(torch.tensor([[8, 9]]), past_key_values=cache, position_ids=torch.tensor([[3, 4]]))
        model(torch.tensor([[8, 9]]), past_key_values=cache, position_ids=torch.tensor([[5, 5]]))  # two drafts
    assert [passing.packed for passing in found] == [False, False, False]


def test_where_no_mask_can_be_read_leading_zeros_are_padding() -> None:
    # what `generate` makes of two padding tokens on the left; the mask is of a kind that tells nothing to us
    stand = torch.tensor([[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]])
    found = _positions(object(), stand, 0, 2, 5, stand.device)
    assert found.tolist() == [[-1, -1, 0, 1, 2], [0, 1, 2, 3, 4]]
    # a dict of masks that are all None says that there is no padding
    assert _positions({"full_attention": None}, stand, 0, 2, 5, stand.device).tolist() == stand.tolist()


def test_each_thread_sees_its_own_forward() -> None:
    model: Any = zoo.model("llama")
    meet = threading.Barrier(2, timeout=20)
    found: dict[int, Tensor] = {}

    with watching(model) as watch, torch.no_grad():

        def wait(*_: Any) -> None:
            meet.wait()
            assert watch.current is not None and watch.current.ids is not None
            found[threading.get_ident()] = watch.current.ids
            meet.wait()

        handle = Halves(model).body.register_forward_pre_hook(wait)
        threads = [threading.Thread(target=model, args=(torch.tensor([ids]),)) for ids in ([5, 6], [7, 8])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        handle.remove()
    assert sorted(ids.tolist() for ids in found.values()) == [[[5, 6]], [[7, 8]]]


def test_watches_stack_and_leave_nothing_after_an_exception() -> None:
    model: Any = zoo.model("llama")
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="inside"), watching(model) as outer, watching(model) as inner:

        def fail(*_: Any) -> None:
            assert outer.current is not None and inner.current is not None
            raise RuntimeError("inside")

        handle = model.lm_head.register_forward_pre_hook(lambda *_: None)
        handle.remove()
        handle = model.model.layers[0].register_forward_pre_hook(fail)
        try:
            model(torch.tensor([[5, 6]]))
        finally:
            handle.remove()
            assert outer.current is None and inner.current is None
    assert snapshot(model) == before
