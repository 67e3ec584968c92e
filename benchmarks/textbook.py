"""Unlearning steps as a tutorial would write them: the yardstick of ``weight_methods``.

Full logits for every token, forget and retain rows in forwards of their own, a frozen copy of the model beside them in
every step, rows in random order padded to the longest of their batch. The losses are written out here from their
formulas and share no code with the package.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, logsigmoid, one_hot

Batch = tuple[Tensor, Tensor, Tensor]  # ids, attention mask, answer mask, each [B, S]


def padded(rows: Sequence[tuple[list[int], int]], filler: int) -> Batch:
    """Rows of (ids, where the answer starts) padded on the right to the longest."""
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), longest), filler)
    mask, answer = torch.zeros_like(ids), torch.zeros_like(ids)
    for i, (tokens, start) in enumerate(rows):
        ids[i, : len(tokens)] = torch.tensor(tokens)
        mask[i, : len(tokens)] = 1
        answer[i, start : len(tokens)] = 1
    return ids, mask, answer


def logits_of(model: Any, batch: Batch) -> Tensor:
    return model(input_ids=batch[0], attention_mask=batch[1], use_cache=False).logits[:, :-1].float()


def token_logps(logits: Tensor, batch: Batch) -> Tensor:
    """[B, S - 1], zero outside answers."""
    found = log_softmax(logits, -1).gather(-1, batch[0][:, 1:, None])[..., 0]
    return found * batch[2][:, 1:]


def mean(values: Tensor, batch: Batch) -> Tensor:
    answers = batch[2][:, 1:]
    return (values * answers).sum() / answers.sum()


def retain_nll(model: Any, batch: Batch) -> Tensor:
    return -mean(token_logps(logits_of(model, batch), batch), batch)


def npo(model: Any, reference: Any, f: Batch, r: Batch, _: Batch) -> Tensor:
    with torch.no_grad():
        given = token_logps(logits_of(reference, f), f).sum(-1)
    ratio = token_logps(logits_of(model, f), f).sum(-1) - given
    return -(2 / 0.1) * logsigmoid(-0.1 * ratio).mean() + retain_nll(model, r)


def dpo(model: Any, reference: Any, f: Batch, r: Batch, a: Batch) -> Tensor:
    with torch.no_grad():
        given = [token_logps(logits_of(reference, batch), batch).sum(-1) for batch in (a, f)]
    preferred, dropped = (
        token_logps(logits_of(model, batch), batch).sum(-1) - one for batch, one in zip((a, f), given, strict=True)
    )
    return -(2 / 0.1) * logsigmoid(0.1 * (preferred - dropped)).mean() + retain_nll(model, r)


def kl_min(model: Any, reference: Any, f: Batch, r: Batch, _: Batch) -> Tensor:
    with torch.no_grad():
        given = log_softmax(logits_of(reference, r), -1)
    forget = mean(token_logps(logits_of(model, f), f), f)
    distance = kl_div(log_softmax(logits_of(model, r), -1), given, reduction="none", log_target=True).sum(-1)
    return forget + mean(distance, r)


def undial(model: Any, reference: Any, f: Batch, r: Batch, _: Batch) -> Tensor:  # noqa: ARG001 - alpha is 0
    with torch.no_grad():
        given = logits_of(reference, f)
        teacher = (given - 10 * one_hot(f[0][:, 1:], given.shape[-1])).softmax(-1)
    return mean(-(teacher * log_softmax(logits_of(model, f), -1)).sum(-1), f)


LOSSES: dict[str, Callable[..., Tensor]] = {"npo": npo, "dpo": dpo, "kl_min": kl_min, "undial": undial}


def train(
    model: Any,
    name: str,
    rows: dict[str, list[tuple[list[int], int]]],
    filler: int,
    *,
    steps: int,
    batch: int,
    accumulation: int,
    rate: float,
    after_step: Callable[[], None],
) -> None:
    """``steps`` optimizer steps on ``model`` in place, ``after_step`` called at the end of each; ``rows`` are forget,
    retain and alternative."""
    reference = copy.deepcopy(model).eval().requires_grad_(False)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01, fused=True)
    generator = torch.Generator().manual_seed(0)
    order = {side: torch.randperm(len(some), generator=generator).tolist() for side, some in rows.items()}
    order["alternative"] = order["forget"]
    for step in range(steps):
        for micro in range(accumulation):
            begin = (step * accumulation + micro) * batch
            f, r, a = (
                padded([rows[side][i] for i in order[side][begin : begin + batch]], filler)
                for side in ("forget", "retain", "alternative")
            )
            (LOSSES[name](model, reference, f, r, a) / accumulation).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        after_step()
