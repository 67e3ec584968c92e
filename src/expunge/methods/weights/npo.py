"""Negative preference optimisation: push the forget answers down, ever more gently the further down they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from expunge.methods.interface import Paper, method_fields
from expunge.methods.weight_method import RetainingMethod, Sides

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.training.step import Step


def npo_loss(logp: Tensor, reference_logp: Tensor, beta: float) -> Tensor:
    """-(2/beta) log sigmoid(-beta (log p_theta - log p_ref)) of each forget answer.

    Args:
        logp: [B] summed log-probability of each answer under the model being trained.
        reference_logp: [B] the same under the frozen target.
        beta: inverse temperature; as it goes to 0 the gradient becomes that of gradient ascent on the summed
            log-probability.

    Returns:
        [B] one loss a row, at least 0 and (2/beta) log 2 where the model has not moved.

    Source: Zhang et al. 2024, arXiv 2404.05868, equation 3.
    """
    from torch.nn.functional import logsigmoid

    return -(2 / beta) * logsigmoid(-beta * (logp - reference_logp))


@method_fields
class NPO(RetainingMethod):
    """Negative preference optimisation against the frozen target, with a likelihood term on retain answers."""

    name: ClassVar[str] = "npo"
    paper: ClassVar[Paper] = Paper(
        "Negative Preference Optimization: From Catastrophic Collapse to Effective Unlearning", "arXiv 2404.05868"
    )
    beta: float = Field(default=0.1, gt=0, description="inverse temperature of the preference")

    @property
    def reference_logps(self) -> Sides:
        return frozenset({"forget"})

    def loss(self, step: Step) -> dict[str, Tensor]:
        forget = npo_loss(step.forget.logp, step.forget.reference_logp, self.beta)
        return {"forget_loss": step.forget.mean_over_rows(forget), **step.retain_term(self.alpha, self.retain)}
