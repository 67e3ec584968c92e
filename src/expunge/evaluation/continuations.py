"""How likely a model finds given continuations of given contexts: token ids in, log-probabilities out."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from expunge.data.batches import collate, length_batches
from expunge.data.encode import Example
from expunge.errors import ConfigError, ModelError
from expunge.evaluation.generation import input_device
from expunge.models.halves import Halves
from expunge.models.logprobs import token_logps
from expunge.models.prompt_lengths import prompt_lengths

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Ids = tuple[int, ...]

_PADDING = 0  # any id that models know: the mask says what is padding
_LOGIT_VALUES = 2**26  # of the float32 logits in memory at a time


@dataclass(frozen=True)
class Continuation:
    """``logp``: natural-log probability of all its tokens together; ``greedy``: each is the model's first choice;
    ``cut``: how many tokens of its context's beginning were left out, since the model takes no more."""

    logp: float
    greedy: bool
    cut: int


@dataclass(frozen=True)
class _Row:
    """One row of a forward, context and continuation less its last token, which is predicted and never read."""

    ids: Ids
    context: int


def score_continuations(
    model: PreTrainedModel,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    batch_size: int,
    most_tokens: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> list[Continuation]:
    """Score ``pairs`` of a context and its continuation (token ids), in the order given, ``batch_size`` rows at a time.

    ``most_tokens`` is what the model takes (None: nothing limits it); longer contexts lose their beginning. Pairs that
    differ in their very last token alone share one row. Every forward runs inside
    :func:`~expunge.models.prompt_lengths.prompt_lengths` with the lengths of its rows' contexts. ``advance(count)`` is
    called after each batch with the number of pairs it scored.

    Raises:
        ConfigError: an empty context or continuation, or a continuation that leaves no room for any context.
        ModelError: NaN log-probabilities.
    """
    kept = _kept(pairs, most_tokens)
    members: dict[_Row, list[int]] = defaultdict(list)
    for index, (context, continuation) in enumerate(kept):
        members[_Row((*context, *continuation[:-1]), len(context))].append(index)
    rows = list(members)
    halves = Halves(model)
    found: dict[int, Continuation] = {}
    for batch in length_batches([len(row.ids) for row in rows], batch_size, sys.maxsize):
        chosen = [rows[place] for place in batch]
        asked = [(place, index) for place, row in enumerate(chosen) for index in members[row]]
        scored = _scored(halves, chosen, [(place, kept[index][1]) for place, index in asked])
        for (_, index), (logp, greedy) in zip(asked, scored, strict=True):
            found[index] = Continuation(logp, greedy, len(pairs[index][0]) - len(kept[index][0]))
        if advance is not None:
            advance(len(asked))
    broken = sum(np.isnan(one.logp) for one in found.values())
    if broken:
        raise ModelError(
            f"the model gives NaN log-probabilities on {broken} of {len(found)} continuations: nothing can be scored. "
            "Its weights are likely damaged or its precision too low; try another checkpoint or dtype float32."
        )
    return [found[index] for index in range(len(pairs))]


def _kept(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], most_tokens: int | None) -> list[tuple[Ids, Ids]]:
    """The pairs with as much of the end of each context as fits, all that cannot be scored in one error."""
    kept: list[tuple[Ids, Ids]] = []
    problems: list[str] = []
    for index, (context, continuation) in enumerate(pairs):
        # the last token of a continuation takes no room
        room = len(context) if most_tokens is None else min(len(context), most_tokens + 1 - len(continuation))
        if not context or not continuation:
            problems.append(f"pair {index} has an empty {'continuation' if context else 'context'}")
        elif room < 1:
            problems.append(
                f"pair {index} has a continuation of {len(continuation)} tokens; the model takes {most_tokens}"
            )
        kept.append((tuple(context[max(0, len(context) - room) :]), tuple(continuation)))
    if problems:
        raise ConfigError(
            f"{len(problems)} of {len(pairs)} continuations cannot be scored: {'; '.join(problems)}. Each needs a "
            "token of its own and at least one of context before it."
        )
    return kept


def _scored(halves: Halves, rows: Sequence[_Row], asked: Sequence[tuple[int, Ids]]) -> list[tuple[float, bool]]:
    """Summed log-probability, and whether all tokens are the argmax, of each continuation after the row it names."""
    examples = [Example(list(row.ids), row.context, False, len(row.ids)) for row in rows]
    batch = collate(examples, _PADDING).to(input_device(halves.model))
    with torch.no_grad():
        with prompt_lengths(row.context for row in rows):
            states = halves.states(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        places = [(row, rows[row].context - 1 + step) for row, tokens in asked for step in range(len(tokens))]
        row_of, position = torch.tensor(places, device=states.device).unbind(1)
        labels = torch.tensor([token for _, tokens in asked for token in tokens], device=states.device)
        size = max(1, _LOGIT_VALUES // halves.vocabulary)
        logps, hits = [], []
        for some, wanted in zip(states[row_of, position].split(size), labels.split(size), strict=True):
            logits = halves.logits(some)
            logps.append(token_logps(logits, wanted).cpu())
            hits.append((logits.argmax(-1) == wanted).cpu())
    ends = np.cumsum([len(tokens) for _, tokens in asked])[:-1]
    each = zip(np.split(torch.cat(logps).double().numpy(), ends), np.split(torch.cat(hits).numpy(), ends), strict=True)
    return [(float(logp.sum()), bool(hit.all())) for logp, hit in each]
