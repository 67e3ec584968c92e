"""What was saved must do what was fitted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expunge.errors import ErasureError
from expunge.methods.interface import Erasure

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROBE = "Question: Who wrote it?\nAnswer: It was written"
_TOKENS = 16


def check_saved(fitted: Erasure, saved: Erasure, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Apply both to ``model``, one after the other; their logits on a short text must be equal bit for bit.

    Raises:
        ErasureError: they differ, so what lies on disk is not what training made.
    """
    import torch

    probe = tokenizer(PROBE, return_tensors="pt")["input_ids"][:, :_TOKENS]
    with fitted.applied(model) as erased:
        expected = probe_logits(erased, probe)
    with saved.applied(model) as erased:
        found = probe_logits(erased, probe)
    if not torch.equal(found, expected):
        raise ErasureError(
            "the erasure that was written to disk gives other logits than the one that training made "
            f"(largest difference {float((found - expected).abs().max()):g}). The disk or the memory may be faulty; "
            "delete the run's folder and run again."
        )


def probe_logits(model: PreTrainedModel, probe: torch.Tensor) -> torch.Tensor:
    """[1, S, V] float32 logits of a short text [1, S]."""
    import torch

    with torch.no_grad():
        logits: torch.Tensor = model(probe.to(model.device), use_cache=False).logits.float()
    return logits
