"""Training a model again for a few steps, looking on the way; afterwards every bit is as before."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Literal

import torch

from expunge.audits.parts.fact_groups import joined_facts
from expunge.data.batches import collate
from expunge.data.encode import Example
from expunge.erasures.adapter import lora_config, with_lora
from expunge.errors import ModelError
from expunge.evaluation.generation import input_device
from expunge.models.logprobs import answer_logprobs
from expunge.models.quantised import check_differentiable
from expunge.models.state import preserved_randomness
from expunge.requests.rows import Row
from expunge.training.parameters import float32_copies, lora_values, select_parameters
from expunge.training.settings import TrainingSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Trained = Literal["full", "lora"]
_CLIP = 1.0


def halves(rows: Sequence[Row], seed: int, names: Iterable[str] = ()) -> tuple[list[Row], list[Row]]:
    """About half of ``rows`` to train on and the others to score; rows about one fact are on one side
    (:func:`~expunge.audits.parts.fact_groups.joined_facts`, with ``names``). Where all are about one, none is trained
    on."""
    facts = joined_facts(rows, names)
    order = sorted(set(facts))
    drawn = random.Random(f"{seed} relearning")
    drawn.shuffle(order)
    order.sort(key=facts.count, reverse=True)  # the small ones fill up
    chosen: set[int] = set()
    count = 0
    for fact in order:
        size = facts.count(fact)
        nearer = abs(2 * (count + size) - len(rows)) <= abs(2 * count - len(rows))
        if nearer and count + size < len(rows):
            chosen.add(fact)
            count += size
    one = [row for row, fact in zip(rows, facts, strict=True) if fact in chosen]
    other = [row for row, fact in zip(rows, facts, strict=True) if fact not in chosen]
    return (other, one) if one and drawn.random() < 0.5 else (one, other)


def train_again(
    model: PreTrainedModel,
    examples: Sequence[Example],
    look: Callable[[int], None],
    *,
    padding: int,
    steps: Sequence[int],
    trained: Trained,
    learning_rate: float,
    batch: int,
    rank: int,
    seed: int,
) -> None:
    """Train on the answers of ``examples`` by Adam at a constant rate, and call ``look(step)`` after each of ``steps``
    (ascending). No dropout. Full training is in float32; a LoRA adapter sits on every linear layer of the body. On
    return and after an exception the model has its own bits.

    Raises:
        ModelError: the loss is no number; weights that cannot be trained.
    """
    check_differentiable(model)
    with ExitStack() as stack:
        stack.enter_context(preserved_randomness())
        if trained == "lora":
            torch.manual_seed(seed)  # the adapter's first values
            settings = TrainingSettings(parameters="lora", lora_rank=rank, lora_alpha=2 * rank)  # type: ignore[call-arg]
            stack.enter_context(with_lora(model, lora_config(lora_values(model, settings))))
            model.eval()
        else:
            names = select_parameters(model, ())
            stack.enter_context(float32_copies(model, names))
        own = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(own, lr=learning_rate)
        generator = torch.Generator().manual_seed(seed)
        order: list[int] = []
        for step in range(1, max(steps, default=0) + 1):
            while len(order) < min(batch, len(examples)):
                order += torch.randperm(len(examples), generator=generator).tolist()
            chosen, order = order[:batch], order[batch:]
            _one_step(model, [examples[i] for i in chosen], own, optimizer, padding)
            if step in steps:
                look(step)


def _one_step(
    model: PreTrainedModel,
    examples: Sequence[Example],
    own: Sequence[torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    padding: int,
) -> None:
    with torch.enable_grad():
        loss = -answer_logprobs(model, collate(examples, padding).to(input_device(model)), hits=False).logps.mean()
        if not bool(torch.isfinite(loss)):
            raise ModelError(
                f"training the model again, the loss is {loss.item()}. Set a smaller audits.relearning.learning_rate."
            )
        loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(own, _CLIP)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
