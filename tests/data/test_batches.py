"""Protects padding: masks and not ids say what is padding, on either side, whatever token pads."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import zoo
from expunge.data.batches import Batch, collate, length_batches, pad_id
from expunge.data.encode import Example, encode
from expunge.data.template import Template
from expunge.requests.rows import Row

LONG = Example([5, 6, 7, 8], 2, True, 4)
SHORT = Example([9, 3], 1, False, 9)


def test_right_padding() -> None:
    batch = collate([LONG, SHORT], 0)
    assert batch.side == "right"
    assert batch.input_ids.tolist() == [[5, 6, 7, 8], [9, 3, 0, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch.answer_mask.tolist() == [[False, False, True, True], [False, True, False, False]]
    assert batch.input_ids.dtype == batch.attention_mask.dtype == torch.long
    assert batch.answer_mask.dtype == torch.bool


def test_left_padding() -> None:
    batch = collate([LONG, SHORT], 0, "left")
    assert batch.side == "left"
    assert batch.input_ids.tolist() == [[5, 6, 7, 8], [0, 0, 9, 3]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]
    assert batch.answer_mask.tolist() == [[False, False, True, True], [False, False, False, True]]


@pytest.mark.parametrize("side", ["right", "left"])
def test_an_end_token_that_also_pads_is_still_scored(side: str) -> None:
    # The answer's end token is 3 and so is the padding: one is seen and scored, the other is not.
    batch = collate([Example([7, 8, 9, 3], 1, True, 4), Example([7, 3], 1, True, 2)], 3, side)  # type: ignore[arg-type]
    assert batch.attention_mask.sum(1).tolist() == [4, 2]
    assert batch.answer_mask.sum(1).tolist() == [3, 1]
    assert batch.input_ids[batch.answer_mask].tolist() == [8, 9, 3, 3]


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_a_missing_pad_token_is_stood_in_for_and_not_added(family: str) -> None:
    tokenizer = zoo.tokenizer(family)
    size, own = len(tokenizer), tokenizer.pad_token_id
    chosen = pad_id(tokenizer)
    assert chosen == tokenizer.eos_token_id
    assert (len(tokenizer), tokenizer.pad_token_id) == (size, own)
    template = Template.of(tokenizer)
    examples = [encode(tokenizer, template, Row("Where?", a), max_length=64) for a in ("Here.", "In Paris, I think.")]
    for side in ("right", "left"):
        batch = collate(examples, chosen, side)  # type: ignore[arg-type]
        for row, example in enumerate(examples):
            assert batch.input_ids[row][batch.attention_mask[row].bool()].tolist() == example.input_ids
            assert batch.input_ids[row][batch.answer_mask[row]].tolist() == example.input_ids[example.answer_start :]


def test_a_pad_token_that_the_model_does_not_have_is_not_used() -> None:
    tokenizer = zoo.tokenizer("llama")
    vocabulary = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == vocabulary  # one beyond the model's last row
    assert pad_id(tokenizer) < vocabulary


def test_without_an_end_token_padding_is_the_pad_token_else_zero() -> None:
    tokenizer = zoo.tokenizer("gpt2")
    tokenizer.eos_token = None
    assert pad_id(tokenizer) == 0
    tokenizer.pad_token = "!"
    assert pad_id(tokenizer) == tokenizer.convert_tokens_to_ids("!")


def test_a_batch_moves_as_one() -> None:
    moved = collate([LONG, SHORT], 0, "left").to("meta")
    assert isinstance(moved, Batch)
    assert moved.side == "left"
    assert {t.device.type for t in (moved.input_ids, moved.attention_mask, moved.answer_mask)} == {"meta"}


def test_length_batches_by_hand() -> None:
    # Longest first: 9 (alone over the 8 tokens), then 4 + 4 (2 x 4 = 8), then 3 + 1 (2 x 3 = 6; 3 x 3 > 8), then 1.
    assert length_batches([4, 1, 9, 3, 4, 1], max_rows=4, max_tokens=8) == [[2], [0, 4], [3, 1], [5]]
    assert length_batches([2, 2, 2], max_rows=2, max_tokens=100) == [[0, 1], [2]]
    assert length_batches([], max_rows=2, max_tokens=8) == []


@given(
    lengths=st.lists(st.integers(0, 60), max_size=60),
    max_rows=st.integers(1, 12),
    max_tokens=st.integers(1, 200),
)
def test_length_batches_hold_every_row_once_within_the_limits(
    lengths: list[int], max_rows: int, max_tokens: int
) -> None:
    batches = length_batches(lengths, max_rows, max_tokens)
    order = [index for batch in batches for index in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[i] for i in order] == sorted(lengths, reverse=True)
    for batch in batches:
        assert 1 <= len(batch) <= max_rows
        padded = len(batch) * max(lengths[i] for i in batch)
        assert padded <= max_tokens or len(batch) == 1
    for batch in batches[:-1]:  # none could have taken one more row
        assert len(batch) == max_rows or (len(batch) + 1) * max(lengths[batch[0]], 1) > max_tokens
