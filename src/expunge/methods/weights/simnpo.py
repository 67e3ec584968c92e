"""SimNPO: negative preference without a reference, on log-probabilities per token."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from expunge.methods.interface import Paper, method_fields
from expunge.methods.weight_method import RetainingMethod

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.training.step import Step


def simnpo_loss(logp: Tensor, lengths: Tensor, beta: float, margin: float) -> Tensor:
    """-(2/beta) log sigmoid(-(beta/T) log p_theta - margin) of each forget answer of T tokens.

    Args:
        logp: [B] summed log-probability of each answer.
        lengths: [B] its number of tokens T, at least 1.
        beta: inverse temperature.
        margin: how far below probability 1 per token (in beta times nats) the push is at half its strength.

    Returns:
        [B] one loss a row, at least 0. The gradient fades as the mean log-probability falls, whatever the length.

    Source: Fan et al. 2024, arXiv 2410.07163.
    """
    from torch.nn.functional import logsigmoid

    return -(2 / beta) * logsigmoid(-beta * logp / lengths - margin)


@method_fields
class SimNPO(RetainingMethod):
    """Negative preference optimisation on length-normalised log-probabilities, with no reference."""

    name: ClassVar[str] = "simnpo"
    paper: ClassVar[Paper] = Paper(
        "Simplicity Prevails: Rethinking Negative Preference Optimization for LLM Unlearning", "arXiv 2410.07163"
    )

    beta: float = Field(default=4.5, gt=0, description="inverse temperature of the preference")
    margin: float = Field(default=0.0, description="reward margin")
    gamma: float = Field(default=0.125, gt=0, description="weight of the forget term")

    def loss(self, step: Step) -> dict[str, Tensor]:
        forget = simnpo_loss(step.forget.logp, step.forget.lengths, self.beta, self.margin)
        term = self.gamma * step.forget.mean_over_rows(forget)
        return {"forget_loss": term, **step.retain_term(self.alpha, self.retain)}
