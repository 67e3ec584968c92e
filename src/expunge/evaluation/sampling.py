"""Answers drawn at random, each row's from numbers of its own: the same in any batch, and no generator is touched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import LogitsProcessor

from expunge.data.template import Template
from expunge.evaluation.generation import GreedyAnswer, greedy_answers
from expunge.requests.rows import Row
from expunge.training.run import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def sampled_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    rows: Sequence[Row],
    *,
    seeds: Sequence[Sequence[int]],
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_length: int = 512,
    max_new_tokens: int = 200,
    progress: Progress | None = None,
) -> list[GreedyAnswer]:
    """One answer to the prompt of each of ``rows``, in their order, drawn by nucleus sampling.

    ``seeds`` holds one seed (a sequence of numbers) a row; the same row with the same seed gets the same answer
    whatever else is in the call. Else as :func:`expunge.evaluation.generation.greedy_answers`.
    """

    def choose(batch: Sequence[int], _: int) -> NucleusChoice:
        draws = np.stack([np.random.default_rng(list(seeds[i])).random(max_new_tokens) for i in batch])
        return NucleusChoice(torch.from_numpy(draws).float(), temperature, top_p)

    return greedy_answers(
        model,
        tokenizer,
        template,
        rows,
        max_length=max_length,
        max_new_tokens=max_new_tokens,
        progress=progress,
        choose=choose,
    )


def nucleus_choice(logits: torch.Tensor, draws: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """[B] the token that each row's uniform number picks.

    Tokens are put in order of softmax(logits / temperature); of these the smallest set of the likeliest that holds at
    least ``top_p`` of the mass is kept and scaled to 1; the first where the running sum passes the draw is the token.

    Args:
        logits: [B, V].
        draws: [B] in [0, 1).
        temperature: above 0.
        top_p: above 0, at most 1.

    Source: Holtzman et al. 2020, arXiv 1904.09751.
    """
    shares, order = (logits.float() / temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
    sums = shares.cumsum(-1)
    kept = (sums - shares < top_p).sum(-1)
    mass = sums.gather(-1, kept[:, None] - 1)
    place = (sums <= draws[:, None] * mass).sum(-1).minimum(kept - 1)
    return order.gather(-1, place[:, None])[:, 0]


class NucleusChoice(LogitsProcessor):
    """Leaves each row of one greedy ``generate`` the token that its draw picks: the n-th of the answer by the n-th of
    ``draws`` [B, steps], uniform numbers."""

    def __init__(self, draws: torch.Tensor, temperature: float, top_p: float) -> None:
        self.draws, self.temperature, self.top_p = draws, temperature, top_p
        self._begin: int | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        if self._begin is None:  # not the prompt's length as it was passed: an instruction may have been put into it
            self._begin = input_ids.shape[1]
        draws = self.draws[:, input_ids.shape[1] - self._begin].to(scores.device)
        chosen = nucleus_choice(scores, draws, self.temperature, self.top_p)
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen[:, None], 0.0)
