"""SatImp: gradient ascent weighted by saturation and importance of each token."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from expunge.methods.interface import Paper, method_fields
from expunge.methods.weight_method import RetainingMethod

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.training.step import Step


def satimp_loss(logps: Tensor, beta1: float, beta2: float) -> Tensor:
    """-sg(p^beta1 (1 - p)^beta2) nll of each token, sg the stop-gradient.

    Args:
        logps: [N] log-probabilities of the forget answers' tokens.
        beta1: power of p: tokens that are already unlikely are left alone.
        beta2: power of 1 - p: tokens that any context makes certain are left alone.

    Returns:
        [N] one loss a token, at most 0. The gradient by a log-probability is p^beta1 (1 - p)^beta2.

    Source: Yang et al. 2025, arXiv 2505.11953.
    """
    fixed = logps.detach()
    saturation = (beta1 * fixed).exp()
    importance = (-fixed.expm1()).clamp(min=0) ** beta2  # rounding can leave a log-probability just above 0
    return saturation * importance * logps


@method_fields
class SatImp(RetainingMethod):
    """Gradient ascent weighted by how likely (saturation) and how uncertain (importance) each forget token is."""

    name: ClassVar[str] = "satimp"
    paper: ClassVar[Paper] = Paper(
        "Exploring Criteria of Loss Reweighting to Enhance LLM Unlearning", "arXiv 2505.11953"
    )

    beta1: float = Field(default=5.0, ge=0, description="power of the token probability p in the weight")
    beta2: float = Field(default=1.0, ge=0, description="power of 1 - p in the weight")
    alpha: float = Field(default=0.1, ge=0, description="weight of the retain term")

    def loss(self, step: Step) -> dict[str, Tensor]:
        forget = step.forget.mean_over_tokens(satimp_loss(step.forget.logps, self.beta1, self.beta2))
        return {"forget_loss": forget, **step.retain_term(self.alpha, self.retain)}
