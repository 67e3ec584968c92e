"""Greedy decoding from where a forward begins: behind a cache that is there already, or with embeddings for tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from expunge.data.encode import end_token_ids
from expunge.data.template import Template
from expunge.models.logprobs import takes_positions

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Template) -> set[int]:
    """Token ids at which an answer is over, the model's own among them."""
    own = getattr(model.generation_config, "eos_token_id", None)
    listed = own if isinstance(own, (list, tuple)) else [] if own is None else [own]
    return end_token_ids(tokenizer, texts) | {int(one) for one in listed}


@torch.no_grad()
def greedy_tokens(
    model: Any, begin: dict[str, Tensor], mask: Tensor, *, ends: set[int], limit: int, cache: Any = None
) -> list[list[int]]:
    """The argmax tokens of each of B rows, up to its end token, which is left out.

    Args:
        begin: ``input_ids`` [B, S] or ``inputs_embeds`` [B, S, H], padded on the left.
        mask: [B, T + S] int64, 0 on padding; T tokens are in ``cache`` already.
        limit: of tokens a row.
        cache: is written to.
    """
    found: list[list[int]] = [[] for _ in range(len(mask))]
    open_rows = torch.ones(len(mask), dtype=torch.bool, device=mask.device)
    stops = torch.tensor(sorted(ends), device=mask.device)
    positions = takes_positions(model)
    inputs = dict(begin)
    for _ in range(limit):
        if positions:
            new = next(iter(inputs.values())).shape[1]
            inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -new:]
        output = model(**inputs, attention_mask=mask, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        tokens = output.logits[:, -1].float().argmax(-1)
        open_rows &= ~torch.isin(tokens, stops)
        if not open_rows.any():
            break
        for row, token in enumerate(tokens.tolist()):
            if open_rows[row]:
                found[row].append(token)
        inputs = {"input_ids": tokens[:, None]}
        mask = torch.cat([mask, mask.new_ones((len(mask), 1))], -1)
    return found
