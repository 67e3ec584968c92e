"""Log-probabilities of answers, with the head applied only where there is an answer token to predict."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from expunge.data.batches import Batch
from expunge.errors import ModelError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class AnswerLogprobs:
    """The N answer tokens of a batch, in row order, first to last.

    logps [N] float32 natural-log probabilities; hits [N] bool, the token was the argmax (None unless asked for);
    rows [N] int64, the batch row of each.
    """

    logps: torch.Tensor
    rows: torch.Tensor
    hits: torch.Tensor | None = None

    def per_row(self, count: int) -> torch.Tensor:
        """[count] summed log-probability of each row's answer."""
        return torch.zeros(count, dtype=self.logps.dtype, device=self.logps.device).index_add(0, self.rows, self.logps)


def answer_logprobs(model: nn.Module, batch: Batch, *, hits: bool = True, head_of: Any = None) -> AnswerLogprobs:
    """Score the answers of ``batch`` under teacher forcing.

    The body runs over all positions, the output head only over the positions before an answer token, so that logits are
    [N, V] and never [B, S, V]; what a model does to its logits after the head (soft caps, scales) is its own code and
    stays in. Gradients flow unless the caller turned them off. ``head_of`` is the bare model where ``model`` is a
    wrapper (DDP) around it.
    """
    predicts = torch.zeros_like(batch.answer_mask)
    predicts[:, :-1] = batch.answer_mask[:, 1:]
    labels = batch.input_ids[:, 1:][batch.answer_mask[:, 1:]]
    kwargs: dict[str, Any] = {}
    if batch.side == "left" and _takes_positions(head_of or model):
        kwargs["position_ids"] = (batch.attention_mask.cumsum(-1) - 1).clamp(min=0)
    with head_at(head_of or model, predicts):
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False, **kwargs).logits
    logits = logits.float()
    logps = -torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    rows = predicts.nonzero()[:, 0]
    return AnswerLogprobs(logps, rows, logits.detach().argmax(-1) == labels if hits else None)


@contextmanager
def head_at(model: Any, positions: torch.Tensor) -> Iterator[None]:
    """Inside, the output head of ``model`` sees only the hidden states at ``positions`` [B, S] bool, as [N, hidden]."""
    head = model.get_output_embeddings()
    if head is None:
        raise ModelError(
            f"{type(model).__name__} has no output embeddings, so answers cannot be scored. "
            "expunge works on causal language models (AutoModelForCausalLM)."
        )
    handle = head.register_forward_pre_hook(lambda _, args: (args[0][positions.to(args[0].device)], *args[1:]))
    try:
        yield
    finally:
        handle.remove()


def _takes_positions(model: Any) -> bool:
    import inspect

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "position_ids" in inspect.signature(base.forward).parameters
