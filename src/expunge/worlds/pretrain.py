"""Training a world's tokenizer and models from scratch: a plain loop, seeded, on the CPU.

This is language modelling over a few hundred rows, not unlearning, so it does not go through ``expunge.training``.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from expunge.errors import TrainingError
from expunge.worlds.recipe import ModelRecipe, PretrainingRecipe, TokenizerRecipe

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


class StoppedError(TrainingError):
    """Pretraining ended early because it was asked to."""


def train_tokenizer(texts: Iterable[str], recipe: TokenizerRecipe, *, max_length: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on ``texts``; the same texts in the same order give the same tokenizer.

    It adds no token by itself (no BOS); the end token is its EOS. ``max_length`` is the model's, in tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocab_size,
        special_tokens=[recipe.pad_token, recipe.end_token],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=recipe.pad_token,
        eos_token=recipe.end_token,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerFast, recipe: ModelRecipe, *, seed: int) -> LlamaForCausalLM:
    """A randomly initialised Llama in float32; the weights come from ``seed`` and the caller's random state is left
    as it was."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.max_positions,
        initializer_range=recipe.initializer_range,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def training_steps(rows: int, recipe: PretrainingRecipe) -> int:
    """Optimizer steps that ``recipe`` takes over so many rows."""
    return math.ceil(rows / recipe.batch_rows) * recipe.epochs


def pretrain(
    model: LlamaForCausalLM,
    rows: Sequence[Sequence[int]],
    recipe: PretrainingRecipe,
    *,
    seed: int,
    pad_id: int,
    answer_starts: Sequence[int] | None = None,
    stop: threading.Event | None = None,
    step_done: Callable[[], None] | None = None,
) -> LlamaForCausalLM:
    """Train ``model`` in place on token-id ``rows`` and return it in evaluation mode.

    The order of the rows comes from ``seed``. Nothing here draws from the global random state, so that two models can
    be trained in two threads. ``answer_starts`` gives the place of each row's first answer token; a recipe whose
    ``prompt_weight`` is not 1 needs it. Setting ``stop`` ends the training with a :class:`StoppedError`;
    ``step_done`` is called after every step.
    """
    import torch

    if recipe.prompt_weight != 1 and answer_starts is None:
        raise TrainingError(f"prompt_weight is {recipe.prompt_weight}, which needs to know where the answers start.")
    order = torch.Generator().manual_seed(seed)
    steps = training_steps(len(rows), recipe)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warm_cosine(steps, recipe.warmup))
    model.train()
    done = 0
    for _ in range(recipe.epochs):
        for chosen in _epoch_batches([len(row) for row in rows], recipe, order):
            input_ids, labels = _pad([rows[i] for i in chosen], pad_id)
            # Right padding under a causal mask: no real token ever looks at a pad, so no attention mask is needed.
            logits = model(input_ids=input_ids, use_cache=False).logits
            guesses, expected = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
            if recipe.prompt_weight == 1 or answer_starts is None:
                loss = torch.nn.functional.cross_entropy(guesses, expected, ignore_index=-100)
            else:
                votes = _votes(labels, [answer_starts[i] for i in chosen], recipe.prompt_weight)[:, 1:].flatten()
                each = torch.nn.functional.cross_entropy(guesses, expected, ignore_index=-100, reduction="none")
                loss = (votes * each).sum() / votes.sum()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            done += 1
            if stop is not None and stop.is_set():
                raise StoppedError(f"pretraining was stopped at step {done} of {steps}, as asked.")
            if step_done is not None:
                step_done()
    model.eval()
    return model


def _warm_cosine(steps: int, warmup: float) -> Callable[[int], float]:
    """The share of the peak learning rate at each step: linear up to 1, then half a cosine down to 0."""
    warm = max(1, round(steps * warmup))

    def share(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

    return share


def _epoch_batches(lengths: Sequence[int], recipe: PretrainingRecipe, order: torch.Generator) -> list[list[int]]:
    """Row indices of one epoch's batches: rows are shuffled, then grouped by length within pools of a few batches,
    which keeps padding low while every batch stays a draw over the whole set."""
    import torch

    batches: list[list[int]] = []
    shuffled = torch.randperm(len(lengths), generator=order)
    for pool in shuffled.split(recipe.batch_rows * recipe.pool_batches):
        by_length = sorted(pool.tolist(), key=lambda i: lengths[i])
        pooled = [by_length[i : i + recipe.batch_rows] for i in range(0, len(by_length), recipe.batch_rows)]
        batches += [pooled[i] for i in torch.randperm(len(pooled), generator=order).tolist()]
    return batches


def _pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [B, L] padded on the right, and labels [B, L] with -100 at the pads."""
    import torch

    longest = max(len(row) for row in rows)
    input_ids = torch.full((len(rows), longest), pad_id, dtype=torch.long)
    labels = torch.full((len(rows), longest), -100, dtype=torch.long)
    for i, row in enumerate(rows):
        ids = torch.tensor(list(row), dtype=torch.long)
        input_ids[i, : len(row)] = ids
        labels[i, : len(row)] = ids
    return input_ids, labels


def _votes(labels: torch.Tensor, answer_starts: Sequence[int], prompt_weight: float) -> torch.Tensor:
    """How much each token counts in the loss [B, L]: 1 from its row's answer on, ``prompt_weight`` before, 0 where
    ``labels`` [B, L] has a pad."""
    import torch

    places = torch.arange(labels.shape[1])
    in_prompt = places < torch.tensor(list(answer_starts)).unsqueeze(1)
    votes = torch.where(in_prompt, prompt_weight, 1.0)
    return votes * (labels != -100)
