"""Rows end to end in one row without padding, kept apart by their positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from expunge.data.encode import Example
from expunge.errors import ConfigError
from expunge.models.state import evaluating

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TOLERANCE = 1e-2  # of the largest logit: rows that see each other differ by far more, rounding by far less


def pack(examples: Sequence[Example]) -> tuple[dict[str, Tensor], Tensor]:
    """What a model is given, input_ids and position_ids [1, S], and which tokens are answers [1, S].

    Positions start again with every row; transformers reads from that where one ends, if there is no attention mask.
    """
    ids = [token for example in examples for token in example.input_ids]
    positions = [place for example in examples for place in range(len(example.input_ids))]
    answers = [place >= example.answer_start for example in examples for place in range(len(example.input_ids))]
    inputs = {"input_ids": torch.tensor([ids]), "position_ids": torch.tensor([positions])}
    return inputs, torch.tensor([answers])


@torch.no_grad()
def check_packing(model: PreTrainedModel, examples: Sequence[Example]) -> None:
    """Refuse a model that would let packed rows see each other."""
    some = sorted(examples, key=lambda example: len(example.input_ids))[:2]
    some = some * 2 if len(some) == 1 else some
    inputs, _ = pack(some)
    with evaluating(model):
        try:
            given = {name: tensor.to(model.device) for name, tensor in inputs.items()}
            packed = model(**given, use_cache=False).logits[0].float()
        except TypeError:
            packed = None
        alone = torch.cat(
            [model(torch.tensor([e.input_ids], device=model.device), use_cache=False).logits[0].float() for e in some]
        )
    if packed is None or float((packed - alone).abs().max()) > _TOLERANCE * float(alone.abs().max()):
        raise ConfigError(
            f"training.packing: {type(model).__name__} does not keep packed rows apart. Train without packing."
        )
