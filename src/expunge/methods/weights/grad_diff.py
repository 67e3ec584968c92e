"""Gradient difference: ascend on what must go, descend on what must stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from expunge.methods.interface import Paper, method_fields
from expunge.methods.weight_method import RetainingMethod

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.training.step import Step


def grad_diff_loss(logps: Tensor, gamma: float) -> Tensor:
    """-gamma nll per token of the forget answers; the retain term is added beside it.

    Args:
        logps: [N] log-probabilities of the forget answers' tokens.
        gamma: weight of the ascent.

    Returns:
        [N] one loss a token, unbounded below.

    Source: Liu et al. 2022 as restated by TOFU, arXiv 2401.06121.
    """
    return gamma * logps


@method_fields
class GradDiff(RetainingMethod):
    """Gradient ascent on forget answers with a likelihood term that holds the retain answers."""

    name: ClassVar[str] = "grad_diff"
    paper: ClassVar[Paper] = Paper("TOFU: A Task of Fictitious Unlearning for LLMs", "arXiv 2401.06121")

    gamma: float = Field(default=1.0, gt=0, description="weight of the ascent on the forget answers")

    def loss(self, step: Step) -> dict[str, Tensor]:
        return {
            "forget_loss": step.forget.mean_over_tokens(grad_diff_loss(step.forget.logps, self.gamma)),
            **step.retain_term(self.alpha, self.retain),
        }
