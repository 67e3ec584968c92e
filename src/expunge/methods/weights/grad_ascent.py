"""Gradient ascent: raise the loss on what must go, with nothing to hold the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from expunge.methods.interface import Paper, method_fields
from expunge.methods.weight_method import WeightMethod

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.training.step import Step


def grad_ascent_loss(logps: Tensor) -> Tensor:
    """-nll per token: the log-probability itself, so that minimising it drives the answer away.

    Args:
        logps: [N] log-probabilities of the forget answers' tokens.

    Returns:
        [N] one loss a token. Unbounded below: nothing stops the model from collapsing.

    Source: Maini et al. 2024, TOFU, arXiv 2401.06121.
    """
    return logps


@method_fields
class GradAscent(WeightMethod):
    """Gradient ascent on the forget answers; no retain term, so the model collapses if trained for long."""

    name: ClassVar[str] = "grad_ascent"
    paper: ClassVar[Paper] = Paper("TOFU: A Task of Fictitious Unlearning for LLMs", "arXiv 2401.06121")

    def loss(self, step: Step) -> dict[str, Tensor]:
        return {"forget_loss": step.forget.mean_over_tokens(grad_ascent_loss(step.forget.logps))}
