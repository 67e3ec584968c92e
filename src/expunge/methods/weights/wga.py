"""WGA: gradient ascent that leaves alone the tokens that are already unlikely."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from expunge.methods.interface import Paper, method_fields
from expunge.methods.weight_method import RetainingMethod

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.training.step import Step


def wga_loss(logps: Tensor, beta: float) -> Tensor:
    """-sg(p^beta) nll of each token, sg the stop-gradient.

    Args:
        logps: [N] log-probabilities of the forget answers' tokens.
        beta: how fast the weight falls with the probability; 0 is gradient ascent.

    Returns:
        [N] one loss a token, at most 0; for beta > 0 at least -1/(e beta). The gradient by a log-probability is p^beta.

    Source: Wang et al. 2025, arXiv 2502.19301 (weighted gradient ascent).
    """
    return (beta * logps.detach()).exp() * logps


@method_fields
class WGA(RetainingMethod):
    """Gradient ascent weighted by each forget token's own probability, so that it fades where it has worked."""

    name: ClassVar[str] = "wga"
    paper: ClassVar[Paper] = Paper(
        "Rethinking LLM Unlearning Objectives: A Gradient Perspective and Go Beyond", "arXiv 2502.19301"
    )

    beta: float = Field(default=1.0, ge=0, description="power of the token probability that weighs the ascent")

    def loss(self, step: Step) -> dict[str, Tensor]:
        forget = step.forget.mean_over_tokens(wga_loss(step.forget.logps, self.beta))
        return {"forget_loss": forget, **step.retain_term(self.alpha, self.retain)}
