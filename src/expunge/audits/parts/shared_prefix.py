"""Rows whose prompts begin alike: what they share is run through the model once."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from expunge.audits.parts.decoding import end_ids, greedy_tokens
from expunge.data.batches import collate, length_batches, pad_id
from expunge.data.encode import Example, encode_all, encode_prompt
from expunge.data.template import Template
from expunge.evaluation.generation import free_bytes, input_device, rows_that_fit
from expunge.models.halves import Halves
from expunge.models.logprobs import takes_positions, token_logps
from expunge.requests.rows import Row
from expunge.training.run import Progress, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_ROWS = 32


@dataclass(frozen=True)
class PrefixAnswers:
    """For n rows the greedy answers and the geometric mean probabilities of the expected ones; ``shared``: how many
    tokens of prompt were run once for all."""

    texts: tuple[str, ...]
    probabilities: tuple[float, ...]
    shared: int


def can_share(model: PreTrainedModel) -> bool:
    """Whether all that the model keeps of earlier tokens are their keys and values, so that its cache can be copied."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    if "past_key_values" not in inspect.signature(model.forward).parameters:
        return False
    layers = DynamicCache(config=model.config.get_text_config()).layers
    return bool(layers) and all(isinstance(layer, DynamicLayer) for layer in layers)


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with, the last one of the shortest row left out."""
    least = min(len(row) for row in rows) - 1
    return next((i for i in range(least) if any(row[i] != rows[0][i] for row in rows)), max(least, 0))


def prefix_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Template,
    rows: Sequence[Row],
    *,
    max_length: int,
    max_new_tokens: int,
    progress: Progress = silent,
) -> PrefixAnswers:
    """Answers to ``rows``, as if each were run alone, and their expected answers' probabilities.

    The tokens that all prompts begin with fill a cache once, of which every batch gets a copy.

    Raises:
        EncodingError: a prompt of more than ``max_length`` tokens.
    """
    prompts = [encode_prompt(tokenizer, texts, row, max_length=max_length) for row in rows]
    examples = encode_all(tokenizer, texts, rows, max_length=max_length)
    shared = common_prefix([*prompts, *(one.input_ids[: one.answer_start] for one in examples)])
    prefix = _Prefix(model, prompts[0][:shared])
    width = max(len(one.input_ids) for one in examples) + max_new_tokens
    most = min(_ROWS, rows_that_fit(row_bytes(model, width), prefix.halves.vocabulary, free_bytes(prefix.device)))
    likely: dict[int, float] = {}
    for batch in length_batches([len(one.input_ids) for one in examples], most, most * width):
        likely |= zip(batch, prefix.probabilities([examples[i] for i in batch], pad_id(tokenizer)), strict=True)
        progress(len(likely), len(rows), "answers")
    ends = end_ids(model, tokenizer, texts)
    said: dict[int, str] = {}
    # padding between cache and prompt does not show where positions are given and every token is looked at
    alike = not takes_positions(model) or prefix.slides
    for batch in prompt_batches(prompts, most, alike=alike):
        tokens = prefix.continued([prompts[i] for i in batch], pad_id(tokenizer), ends, max_new_tokens)
        for i, one in zip(batch, tokens, strict=True):
            said[i] = str(tokenizer.decode(one, skip_special_tokens=True)).strip()
        progress(len(said), len(rows), "generation")
    order = range(len(rows))
    return PrefixAnswers(tuple(said[i] for i in order), tuple(likely[i] for i in order), shared)


class _Prefix:
    def __init__(self, model: PreTrainedModel, ids: Sequence[int]) -> None:
        from transformers import DynamicCache

        self.model, self.halves, self.device = model, Halves(model), input_device(model)
        self.length = len(ids)
        self._cache = DynamicCache(config=model.config.get_text_config())
        self.slides = any(getattr(layer, "is_sliding", False) for layer in self._cache.layers)
        if ids:
            given = torch.tensor([list(ids)], device=self.device)
            with torch.no_grad():
                self.halves.states(input_ids=given, attention_mask=torch.ones_like(given), past_key_values=self._cache)

    def _for(self, rows: int) -> Any:
        cache = copy.deepcopy(self._cache)
        if self.length:
            cache.batch_repeat_interleave(rows)
        return cache

    def _mask(self, mask: torch.Tensor) -> torch.Tensor:
        return torch.cat([mask.new_ones((len(mask), self.length)), mask], -1)

    @torch.no_grad()
    def probabilities(self, examples: Sequence[Example], padding: int) -> list[float]:
        rest = [
            Example(one.input_ids[self.length :], one.answer_start - self.length, one.has_end, one.full_length)
            for one in examples
        ]
        batch = collate(rest, padding).to(self.device)
        states = self.halves.states(
            input_ids=batch.input_ids,
            attention_mask=self._mask(batch.attention_mask),
            past_key_values=self._for(len(rest)),
        )
        wanted = batch.answer_mask[:, 1:]
        logps = token_logps(self.halves.logits(states[:, :-1][wanted]), batch.input_ids[:, 1:][wanted])
        ends = np.cumsum([one.answer_length for one in rest])[:-1]
        parts = np.split(logps.cpu().double().numpy(), ends)
        return [float(np.exp(part.mean())) for part in parts]

    def continued(self, prompts: Sequence[Sequence[int]], padding: int, ends: set[int], limit: int) -> list[list[int]]:
        rest = [list(prompt[self.length :]) for prompt in prompts]
        batch = collate([Example(one, len(one), False, len(one)) for one in rest], padding, "left").to(self.device)
        mask = self._mask(batch.attention_mask)
        cache = self._for(len(rest))
        return greedy_tokens(self.model, {"input_ids": batch.input_ids}, mask, ends=ends, limit=limit, cache=cache)


def prompt_batches(prompts: Sequence[Sequence[int]], most: int, *, alike: bool) -> list[list[int]]:
    """Places of prompts in batches of similar length, or of the ``alike`` one."""
    lengths = [len(prompt) for prompt in prompts]
    if not alike:
        return length_batches(lengths, most, most * max(lengths))
    found = []
    for length in sorted(set(lengths), reverse=True):
        places = [place for place, own in enumerate(lengths) if own == length]
        found += [places[i : i + most] for i in range(0, len(places), most)]
    return found


def row_bytes(model: PreTrainedModel, width: int) -> int:
    """The bytes of the keys and values of ``width`` tokens."""
    config = model.config.get_text_config()
    heads = int(getattr(config, "num_attention_heads", None) or 1)
    shared = int(getattr(config, "num_key_value_heads", None) or heads)
    hidden = int(getattr(config, "hidden_size", None) or 1024)
    head = int(getattr(config, "head_dim", None) or max(hidden // heads, 1))
    layers = int(getattr(config, "num_hidden_layers", None) or 1)
    return 2 * layers * shared * head * width * next(model.parameters()).element_size()
