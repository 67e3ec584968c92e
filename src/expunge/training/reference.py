"""The frozen target's log-probabilities, computed once before training starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from expunge.data.batches import collate, length_batches
from expunge.data.encode import Example
from expunge.models.logprobs import answer_logprobs
from expunge.models.state import evaluating

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from expunge.training.run import Progress


@torch.no_grad()
def sequence_logprobs(
    model: PreTrainedModel, examples: Sequence[Example], pad_id: int, *, rows: int, progress: Progress
) -> torch.Tensor:
    """[len(examples)] float32 summed log-probability of each answer, on the CPU, in the order given.

    The model is in evaluation mode meanwhile, so dropout takes no part in the reference.
    """
    result = torch.empty(len(examples))
    batches = length_batches([len(e.input_ids) for e in examples], rows, 2**31)
    with evaluating(model):
        for done, indices in enumerate(batches):
            batch = collate([examples[i] for i in indices], pad_id).to(model.device)
            scored = answer_logprobs(model, batch, hits=False)
            result[indices] = scored.per_row(len(indices)).cpu()
            progress(done + 1, len(batches), "reference")
    return result
