"""Greedy answers in batches, whatever the model's own generation settings say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from expunge.data.batches import collate, pad_id
from expunge.data.encode import Example, encode_prompt, end_token_ids
from expunge.data.template import Template
from expunge.distributed import gather, processes, share
from expunge.errors import ModelError
from expunge.models.limits import position_limit
from expunge.requests.rows import Row
from expunge.training.run import Progress

if TYPE_CHECKING:
    from transformers import LogitsProcessor, PreTrainedModel, PreTrainedTokenizerBase

# One batch: rows, bytes of cached keys and values, values of its float32 logits. On a GPU the cache gets a share of the
# free memory instead of a fixed number of bytes, and so do the logits.
_ROWS = 256
_CPU_ROWS = 128  # more fall out of the processor's caches
_CACHE_BYTES = 2**30
_LOGIT_VALUES = 2**26
_CACHE_SHARE = 0.3
_LOGIT_SHARE = 0.15


@dataclass(frozen=True)
class GreedyAnswer:
    """What a model answered: text, token ids without the end token, the end token (None: it ran to the
    limit), and the ids of the prompt. ``limit`` is the number of tokens it could have had."""

    text: str
    tokens: tuple[int, ...]
    end: int | None
    prompt: tuple[int, ...]
    limit: int


def greedy_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    rows: Sequence[Row],
    *,
    max_length: int = 512,
    max_new_tokens: int = 200,
    progress: Progress | None = None,
    choose: Callable[[Sequence[int], int], LogitsProcessor] | None = None,
) -> list[GreedyAnswer]:
    """``model.generate`` with the plain argmax on the prompts of ``rows``, in their order.

    Left-padded batches of rows whose expected answers are about as long, so that most batches end when their
    answers do. Where the model's positions end before ``max_new_tokens``, the answer does too; that depends
    on the row alone, never on its batch. The caller puts the model in eval mode. Several processes answer a share each
    and have all answers in the end. ``choose``, given the rows of a batch (by their place) and the padded length of
    their prompts, makes what picks their tokens instead of the argmax.
    """
    prompts = [encode_prompt(tokenizer, template, row, max_length=max_length) for row in rows]
    positions = position_limit(model)
    ends = end_token_ids(tokenizer, template) | _own_ends(model)
    by_limit: dict[int, list[int]] = defaultdict(list)
    for i, prompt in enumerate(prompts):
        by_limit[min(max_new_tokens, positions - len(prompt)) if positions else max_new_tokens].append(i)
    if by_limit and min(by_limit) < 1:
        raise ModelError(
            f"a prompt of {max(map(len, prompts))} tokens leaves no room for an answer: the model takes "
            f"{positions} tokens at most. Shorten the prompt or use a model with a longer context."
        )
    expected = [len(row.answer) for row in rows]
    own = set(share(expected))
    found: dict[int, list[int]] = {}
    for limit, chosen in by_limit.items():
        width = max(len(prompts[i]) for i in chosen) + limit
        for batch in _batches(model, [i for i in chosen if i in own], expected, width):
            found |= zip(
                batch,
                _generate(
                    model,
                    [prompts[i] for i in batch],
                    ends,
                    pad_id(tokenizer),
                    limit,
                    None if choose is None else partial(choose, batch),
                ),
                strict=True,
            )
            if progress is not None:
                progress(min(len(found) * processes(), len(rows)), len(rows), "generation")
    generated = dict(gather(found.items()))
    limits = {i: limit for limit, chosen in by_limit.items() for i in chosen}
    answers = []
    for i, prompt in enumerate(prompts):
        ids = generated[i]
        at = next((place for place, token in enumerate(ids) if token in ends), None)
        tokens = ids if at is None else ids[:at]  # what follows an end token is padding
        text = str(tokenizer.decode(tokens, skip_special_tokens=True)).strip()
        answers.append(GreedyAnswer(text, tuple(tokens), None if at is None else ids[at], tuple(prompt), limits[i]))
    return answers


def input_device(model: PreTrainedModel) -> torch.device:
    """Where the model wants its token ids."""
    weight = model.get_input_embeddings().weight
    if not isinstance(weight, torch.Tensor):
        raise ModelError(f"{type(model).__name__} has no embedding matrix, so it cannot be run on token ids.")
    return weight.device


def free_bytes(device: torch.device) -> int | None:
    """The bytes of GPU memory that new tensors can have, those that torch holds in reserve included; None for a device
    that is no CUDA GPU."""
    if device.type != "cuda":
        return None
    reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + reserve


def rows_that_fit(row_bytes: int, vocabulary: int, free: int | None) -> int:
    """How many rows one batch of generation takes, at least one: ``row_bytes`` is what a row's keys and values come to,
    ``free`` the bytes of GPU memory that are free (None: a CPU, where the budgets are fixed)."""
    most, cache, logits = _CPU_ROWS, _CACHE_BYTES, _LOGIT_VALUES
    if free is not None:
        most, cache, logits = _ROWS, int(_CACHE_SHARE * free), int(_LOGIT_SHARE * free) // 4
    return max(1, min(most, cache // row_bytes, logits // vocabulary))


def _generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    ends: set[int],
    padding: int,
    limit: int,
    choose: Callable[[int], LogitsProcessor] | None = None,
) -> list[list[int]]:
    from transformers import LogitsProcessorList

    from expunge.evaluation.cache import roomy_cache

    examples = [Example(list(prompt), len(prompt), False, len(prompt)) for prompt in prompts]
    batch = collate(examples, padding, "left").to(input_device(model))
    width = batch.input_ids.shape[1]
    cache = roomy_cache(model, width + limit)
    with torch.no_grad(), _neutral(model, ends, padding, limit) as config:
        output = model.generate(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            generation_config=config,
            **({} if cache is None else {"past_key_values": cache}),
            logits_processor=None if choose is None else LogitsProcessorList([choose(width)]),
        )
    tokens: list[list[int]] = output[:, width:].tolist()
    return tokens


def _batches(model: PreTrainedModel, chosen: Sequence[int], expected: Sequence[int], width: int) -> Iterator[list[int]]:
    """``chosen`` in batches of similar expected answer length, long first, within the budget of one batch;
    ``width`` is the number of tokens a row can come to."""
    config = model.config.get_text_config()
    layers = int(getattr(config, "num_hidden_layers", None) or 1)
    hidden = int(getattr(config, "hidden_size", None) or 1024)
    heads = int(getattr(config, "num_attention_heads", None) or 1)
    shared = int(getattr(config, "num_key_value_heads", None) or heads)
    head = int(getattr(config, "head_dim", None) or max(hidden // heads, 1))
    vocabulary = int(getattr(config, "vocab_size", None) or 1)
    row_bytes = 2 * layers * shared * head * width * next(model.parameters()).element_size()
    rows = rows_that_fit(row_bytes, vocabulary, free_bytes(input_device(model)))
    order = sorted(chosen, key=lambda i: (-expected[i], i))
    for begin in range(0, len(order), rows):
        yield order[begin : begin + rows]


@contextmanager
def _neutral(model: Any, ends: set[int], padding: int, limit: int) -> Iterator[Any]:
    """A plain greedy configuration with the model's own out of the way: ``generate`` fills unset fields from
    that one (sampling, penalties, forced tokens), so it is swapped and put back."""
    from transformers import GenerationConfig

    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=limit,
        eos_token_id=sorted(ends) or None,
        pad_token_id=padding,
        bos_token_id=getattr(model.generation_config, "bos_token_id", None),
        use_cache=True,
    )
    holders = [model] + ([model.get_base_model()] if hasattr(model, "get_base_model") else [])
    before = [holder.generation_config for holder in holders]
    try:
        for holder in holders:
            holder.generation_config = config
        yield config
    finally:
        for holder, own in zip(holders, before, strict=True):
            holder.generation_config = own


def _own_ends(model: Any) -> set[int]:
    own = getattr(model.generation_config, "eos_token_id", None)
    if own is None:
        return set()
    return {int(one) for one in own} if isinstance(own, list | tuple) else {int(own)}
