"""Examples to padded tensors, and lengths to batches that waste little padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from expunge.data.encode import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Side = Literal["right", "left"]


@dataclass(frozen=True)
class Batch:
    """``B`` rows padded to the longest, ``S`` tokens.

    input_ids [B, S] int64; attention_mask [B, S] int64, 0 on padding; answer_mask [B, S] bool, True on answer tokens
    (never on padding, whatever id pads). ``side`` is the side that is padded.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    answer_mask: torch.Tensor
    side: Side = "right"

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on ``device``."""
        return Batch(self.input_ids.to(device), self.attention_mask.to(device), self.answer_mask.to(device), self.side)


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """An id to fill padding with. Any id that the model knows will do, since masks and not ids say what is padding; a
    tokenizer without a pad token is left as it is. The end token comes first: a pad token is sometimes one that was
    added to the tokenizer and not to the model."""
    for candidate in (tokenizer.eos_token_id, tokenizer.pad_token_id):
        if candidate is not None:
            return int(candidate)
    return 0


def collate(examples: Sequence[Example], pad_id: int, side: Side = "right") -> Batch:
    """Pad ``examples`` to the longest of them."""
    shape = (len(examples), max(len(example.input_ids) for example in examples))
    input_ids = torch.full(shape, pad_id, dtype=torch.long)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    answer_mask = torch.zeros(shape, dtype=torch.bool)
    for row, example in enumerate(examples):
        length = len(example.input_ids)
        begin = 0 if side == "right" else shape[1] - length
        input_ids[row, begin : begin + length] = torch.tensor(example.input_ids)
        attention_mask[row, begin : begin + length] = 1
        answer_mask[row, begin + example.answer_start : begin + length] = True
    return Batch(input_ids, attention_mask, answer_mask, side)


def length_batches(lengths: Sequence[int], max_rows: int, max_tokens: int) -> list[list[int]]:
    """Indices in batches of similar length, longest first, each at most ``max_rows`` rows and at most ``max_tokens``
    tokens once padded (a single row longer than that stands alone)."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    for index in order:
        if batches:
            width = max(lengths[batches[-1][0]], 1)
            if len(batches[-1]) < max_rows and (len(batches[-1]) + 1) * width <= max_tokens:
                batches[-1].append(index)
                continue
        batches.append([index])
    return batches
