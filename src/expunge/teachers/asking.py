"""Running the target on what plans ask: many texts a forward, the head only where something is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from expunge.data.batches import length_batches
from expunge.models.halves import Halves
from expunge.models.state import evaluating
from expunge.teachers.distribution import LOWERED, aggregate, change_name_back, whp_choice
from expunge.teachers.plans import Plan
from expunge.teachers.sparse_rows import TOP_K, SparseRows, sparse_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH_TOKENS = {"cpu": 4096, "cuda": 16_384}
"""Padded tokens of one forward: on a CPU more fall out of its caches, on a GPU fewer leave it idle."""

_LOGIT_BYTES = {"cpu": 2**25, "cuda": 2**28}  # of the float32 distributions of all teachers held at a time

Found = tuple[Tensor, SparseRows, Tensor]
"""places [n], distributions [n] and what storing lost [n] of a plan."""


@torch.no_grad()
def ask(
    model: PreTrainedModel,
    plans: Sequence[Plan],
    *,
    style: str = "causal",
    pad_id: int = 0,
    top_k: int = TOP_K,
    lowered: float = LOWERED,
    batch_tokens: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[Found]:
    """What the target teaches by each plan, in their order, in host memory.

    Plans of like length share forwards; what is held at a time are the states of a few plans, and of their dense
    distributions a few places.

    Args:
        model: the target.
        plans: what is asked.
        style: "causal" (names changed back, the mean of the teachers) or "whp" (one teacher's choice as a one-hot).
        pad_id: any id that the model knows.
        top_k: tokens kept of a distribution.
        lowered: see :func:`~expunge.teachers.distribution.whp_choice`.
        batch_tokens: padded tokens of a forward; by default :data:`BATCH_TOKENS`.
        progress: told how many plans are done.
    """
    halves = Halves(model)
    tokens = batch_tokens or BATCH_TOKENS.get(model.device.type, BATCH_TOKENS["cuda"])
    held = _LOGIT_BYTES.get(model.device.type, _LOGIT_BYTES["cuda"])
    found: dict[int, Found] = {}
    with evaluating(model):
        for group in _groups(plans, tokens):
            for place, states in zip(group, _states(halves, [plans[i] for i in group], tokens, pad_id), strict=True):
                found[place] = _taught(halves, plans[place], states, style, top_k, lowered, held)
            if progress is not None:
                progress(len(found), len(plans), "teacher")
    return [found[place] for place in range(len(plans))]


def _groups(plans: Sequence[Plan], tokens: int) -> list[list[int]]:
    """Plans of like length together, as long as their texts fit one forward."""
    longest = [max(map(len, plan.asked)) for plan in plans]
    groups: list[list[int]] = []
    held = 0
    for place in sorted(range(len(plans)), key=lambda i: (-longest[i], i)):
        width = longest[groups[-1][0]] if groups else 0
        more = width * len(plans[place].asked)
        if not groups or held + more > tokens:
            groups.append([])
            held, more = 0, longest[place] * len(plans[place].asked)
        groups[-1].append(place)
        held += more
    return groups


def _states(halves: Halves, plans: Sequence[Plan], tokens: int, pad_id: int) -> list[Tensor]:
    """[N, n, H] for each plan: the body's states where its texts are read."""
    texts = [(number, turn) for number, plan in enumerate(plans) for turn in range(len(plan.asked))]
    lengths = [len(plans[number].asked[turn]) for number, turn in texts]
    device = halves.model.device
    found: dict[tuple[int, int], Tensor] = {}
    for batch in length_batches(lengths, len(texts), tokens):
        width = max(lengths[i] for i in batch)
        ids = torch.full((len(batch), width), pad_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, i in enumerate(batch):
            number, turn = texts[i]
            ids[row, : lengths[i]] = torch.tensor(plans[number].asked[turn])
            mask[row, : lengths[i]] = 1
        inputs: dict[str, Any] = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
        states = halves.states(**inputs)
        for row, i in enumerate(batch):
            number, turn = texts[i]
            found[number, turn] = states[row, plans[number].at[turn].to(device)]
    return [torch.stack([found[number, turn] for turn in range(len(plan.asked))]) for number, plan in enumerate(plans)]


def _taught(halves: Halves, plan: Plan, states: Tensor, style: str, top_k: int, lowered: float, held: int) -> Found:
    teachers, count, _ = states.shape
    vocabulary, device = halves.vocabulary, states.device
    names = plan.names.to(device)
    size = max(1, held // (4 * teachers * vocabulary))
    rows: list[SparseRows] = []
    lost: list[Tensor] = []
    for begin in range(0, count, size):
        here = slice(begin, begin + size)
        some = states[:, here]
        logits = halves.logits(some.flatten(0, 1)).unflatten(0, some.shape[:2])
        begun = plan.begun[here].to(device)
        if style == "whp":
            chosen = whp_choice(logits[0], names, begun, lowered)
            rows.append(SparseRows.of_tokens(chosen.cpu(), vocabulary))
            lost.append(torch.zeros(len(chosen)))
            continue
        probs = change_name_back(logits.softmax(-1), names, plan.standing[here].to(device), begun)
        kept, gone = sparse_rows(aggregate(probs), top_k)
        rows.append(kept)
        lost.append(gone.cpu())
    if not rows:
        nothing = SparseRows.none(vocabulary, 1 if style == "whp" else top_k)
        return plan.places, nothing, torch.zeros(0)
    return plan.places, SparseRows.joined(rows), torch.cat(lost)
