"""Many sampled answers to each prompt. Where the model allows it a prompt is run once, for all of its samples."""

from __future__ import annotations

import copy
import hashlib
import inspect
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor

from expunge.audits.parts.decoding import end_ids
from expunge.audits.parts.shared_prefix import can_share, prompt_batches, row_bytes
from expunge.data.batches import collate, pad_id
from expunge.data.encode import Example, encode_prompt
from expunge.data.template import Template
from expunge.errors import EncodingError, ModelError
from expunge.evaluation.cache import roomy_cache
from expunge.evaluation.generation import free_bytes, greedy_answers, input_device, rows_that_fit
from expunge.models.halves import Halves
from expunge.models.limits import position_limit
from expunge.models.logprobs import takes_positions
from expunge.requests.rows import Row
from expunge.training.run import Progress, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_LISTED = 20
_LEFT = 0.75  # of the rows of a forward go on: then the others leave it


def sampled_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Template,
    rows: Sequence[Row],
    *,
    samples: int,
    temperature: float,
    seed: int,
    max_length: int,
    max_new_tokens: int,
    share: bool = True,
    progress: Progress = silent,
) -> list[list[str]]:
    """``samples`` answers to each row's prompt, drawn from softmax(logits / temperature) until the end token.

    Each sample has random numbers of its own, made of the seed, the prompt and the sample's number: it is the same in
    any batch, and other models and temperatures draw with the same numbers.

    Args:
        share: run each prompt once, for all of its samples. False where something applied to the model must see whole
            calls of ``generate``; then, and where a model's cache cannot be copied, every sample is a row of those.

    Raises:
        EncodingError: prompts of more than ``max_length`` tokens, all of them named.
        ModelError: prompts that leave no room for an answer, all of them named.
    """
    prompts = _encoded(model, tokenizer, texts, rows, max_length)
    draws = [Draws(seed, prompt, samples, max_new_tokens) for prompt in prompts]
    if not (share and can_share(model)):
        return _generated(model, tokenizer, texts, rows, draws, temperature, max_length, max_new_tokens, progress)
    sampler = _Sampler(model, end_ids(model, tokenizer, texts), pad_id(tokenizer), temperature)
    found: dict[int, list[list[int]]] = {}
    for limit, places in _by_limit(model, prompts, max_new_tokens):
        width = max(len(prompts[place]) for place in places) + limit
        most = rows_that_fit(row_bytes(model, width), sampler.vocabulary, free_bytes(sampler.device))
        own = [prompts[place] for place in places]
        for batch in prompt_batches(own, max(1, most // samples), alike=not takes_positions(model)):
            chosen = [places[one] for one in batch]
            said = sampler.continued([prompts[p] for p in chosen], [draws[p] for p in chosen], limit, most)
            found |= zip(chosen, said, strict=True)
            progress(len(found), len(rows), "sampled answers")
    return [
        [str(tokenizer.decode(tokens, skip_special_tokens=True)).strip() for tokens in found[place]]
        for place in range(len(rows))
    ]


@dataclass(frozen=True)
class Draws:
    """The uniform numbers of ``samples`` answers to ``prompt``, of ``steps`` tokens each."""

    seed: int
    prompt: Sequence[int]
    samples: int
    steps: int

    def of(self, samples: Sequence[int]) -> Tensor:
        """[len(samples), steps] float64 numbers in [0, 1)."""
        said = hashlib.sha256(repr((self.seed, list(self.prompt))).encode()).digest()
        key = int.from_bytes(said[:16], "little")
        return torch.from_numpy(np.stack([np.random.default_rng([key, one]).random(self.steps) for one in samples]))


def drawn_tokens(logits: Tensor, draws: Tensor, temperature: float) -> Tensor:
    """[B] the token of logits [B, V] at which the running sum of softmax(logits / temperature), in the order of the
    vocabulary, passes the number in ``draws`` [B], each in [0, 1)."""
    sums = (logits.float() / temperature).softmax(-1).cumsum(-1, dtype=torch.float64)
    wanted = draws.to(sums)[:, None] * sums[:, -1:]  # rounding may leave the sum a little off 1
    return torch.searchsorted(sums, wanted, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)


class _Sampler:
    def __init__(self, model: Any, ends: set[int], padding: int, temperature: float) -> None:
        self.model, self.padding, self.temperature = model, padding, temperature
        self.device, self.vocabulary = input_device(model), Halves(model).vocabulary
        self.ends = torch.tensor(sorted(ends), device=self.device)
        self.positions = takes_positions(model)
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.kept = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(base.forward).parameters else {}

    @torch.no_grad()
    def continued(
        self, prompts: Sequence[Sequence[int]], draws: Sequence[Draws], limit: int, most: int
    ) -> list[list[list[int]]]:
        """The tokens of every sample of each prompt, at most ``most`` samples at a time."""
        samples = draws[0].samples
        examples = [Example(list(prompt), len(prompt), False, len(prompt)) for prompt in prompts]
        batch = collate(examples, self.padding, "left").to(self.device)
        cache = roomy_cache(self.model, batch.input_ids.shape[1] + limit)
        first = self._logits(batch.input_ids, batch.attention_mask, cache)
        found: list[list[list[int]]] = [[] for _ in prompts]
        size = max(1, min(samples, most // len(prompts)))
        for begin in range(0, samples, size):
            some = range(begin, min(begin + size, samples))
            own = cache if some.stop == samples else copy.deepcopy(cache)
            own.batch_repeat_interleave(len(some))  # type: ignore[union-attr]
            numbers = torch.cat([one.of(some) for one in draws]).to(self.device)
            mask = batch.attention_mask.repeat_interleave(len(some), 0)
            tokens = self._drawn(first.repeat_interleave(len(some), 0), numbers, mask, own, limit)
            for place in range(len(prompts)):
                found[place] += tokens[place * len(some) : (place + 1) * len(some)]
        return found

    def _drawn(self, logits: Tensor, draws: Tensor, mask: Tensor, cache: Any, limit: int) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in range(len(mask))]
        rows = torch.arange(len(mask), device=mask.device)  # whose answers the forward goes on with
        going = torch.ones(len(mask), dtype=torch.bool, device=mask.device)
        for step in range(limit):
            tokens = drawn_tokens(logits, draws[:, step], self.temperature)
            going &= ~torch.isin(tokens, self.ends)
            for row, token, on in zip(rows.tolist(), tokens.tolist(), going.tolist(), strict=True):
                if on:
                    found[row].append(token)
            kept = going.nonzero()[:, 0]
            if step + 1 == limit or not len(kept):
                break
            if len(kept) <= _LEFT * len(going):  # to leave the others out costs a copy of the cache
                rows, tokens, draws, mask, going = rows[kept], tokens[kept], draws[kept], mask[kept], going[kept]
                cache.batch_select_indices(kept)
            mask = torch.cat([mask, mask.new_ones((len(mask), 1))], -1)
            logits = self._logits(tokens[:, None], mask, cache)
        return found

    def _logits(self, ids: Tensor, mask: Tensor, cache: Any) -> Tensor:
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "past_key_values": cache, **self.kept}
        if self.positions:
            inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        found: Tensor = self.model(**inputs, use_cache=True).logits[:, -1].float()
        return found


def _encoded(
    model: Any, tokenizer: PreTrainedTokenizerBase, texts: Template, rows: Sequence[Row], max_length: int
) -> list[list[int]]:
    """The prompts' tokens; those that are too long are told at once."""
    prompts = [encode_prompt(tokenizer, texts, row, max_length=sys.maxsize) for row in rows]

    def longer(than: int) -> list[str]:
        return [
            f"{row.source or repr(row.prompt[:40])} ({len(prompt)})"
            for row, prompt in zip(rows, prompts, strict=True)
            if len(prompt) > than
        ]

    def listed(named: Sequence[str]) -> str:
        more = f" and {len(named) - _LISTED} more" if len(named) > _LISTED else ""
        return f"{len(named)} of {len(rows)} prompts: {', '.join(named[:_LISTED])}{more}"

    positions = position_limit(model)
    by_model = positions is not None and positions <= max_length
    if by_model and (named := longer(positions - 1)):  # type: ignore[operator]
        raise ModelError(
            f"{listed(named)} (with their tokens): none leaves room for an answer, as the model takes {positions} "
            "tokens at most. Shorten them, leave them out or use a model with a longer context."
        )
    if not by_model and (named := longer(max_length)):
        raise EncodingError(
            f"{listed(named)} (with their tokens): each is longer than max_length {max_length}. Raise "
            "training.max_length, shorten them or leave them out."
        )
    return prompts


def _by_limit(model: Any, prompts: Sequence[Sequence[int]], wanted: int) -> Iterator[tuple[int, list[int]]]:
    """Places of prompts by how many tokens their answers may have: what a row may say does not depend on its batch."""
    positions = position_limit(model)
    found: dict[int, list[int]] = defaultdict(list)
    for place, prompt in enumerate(prompts):
        found[min(wanted, positions - len(prompt)) if positions else wanted].append(place)
    yield from found.items()


class Drawing(LogitsProcessor):
    """Leaves each row of one greedy ``generate`` the token that its number picks: the n-th of the answer by the n-th of
    ``draws`` [B, steps]."""

    def __init__(self, draws: Tensor, temperature: float) -> None:
        self.draws, self.temperature = draws, temperature
        self.begin: int | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        if self.begin is None:  # not the prompt's length as it was passed: an instruction may have been put into it
            self.begin = input_ids.shape[1]
        chosen = drawn_tokens(scores, self.draws[:, input_ids.shape[1] - self.begin], self.temperature)
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen[:, None], 0.0)


def _generated(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Template,
    rows: Sequence[Row],
    draws: Sequence[Draws],
    temperature: float,
    max_length: int,
    max_new_tokens: int,
    progress: Progress,
) -> list[list[str]]:
    samples = draws[0].samples if draws else 0

    def choose(batch: Sequence[int], _: int) -> LogitsProcessor:
        numbers = torch.cat([draws[place // samples].of([place % samples]) for place in batch])
        return Drawing(numbers, temperature)

    answers = greedy_answers(
        model,
        tokenizer,
        texts,
        [row for row in rows for _ in range(samples)],
        max_length=max_length,
        max_new_tokens=max_new_tokens,
        progress=progress,
        choose=choose,
    )
    said = [answer.text for answer in answers]
    return [said[begin : begin + samples] for begin in range(0, len(said), samples)]
