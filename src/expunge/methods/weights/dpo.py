"""DPO against refusals: prefer "I do not know" to the forget answer, measured from the frozen target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from expunge.methods.interface import Paper, method_fields
from expunge.methods.weight_method import RetainingMethod, Sides

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.requests import Row
    from expunge.training.alternatives import Context
    from expunge.training.step import Step


def dpo_loss(chosen_ratio: Tensor, rejected_ratio: Tensor, beta: float) -> Tensor:
    """-(2/beta) log sigmoid(beta (lr(chosen) - lr(rejected))), where lr = log p_theta - log p_ref of an answer.

    Args:
        chosen_ratio: [B] log-ratio of each preferred answer.
        rejected_ratio: [B] log-ratio of the answer that it is preferred to.
        beta: inverse temperature.

    Returns:
        [B] one loss a pair, at least 0 and (2/beta) log 2 where the model has not moved.

    Source: Rafailov et al. 2023, arXiv 2305.18290, equation 7, scaled by 2/beta as NPO is (arXiv 2404.05868).
    """
    from torch.nn.functional import logsigmoid

    return -(2 / beta) * logsigmoid(beta * (chosen_ratio - rejected_ratio))


def preference_term(step: Step, beta: float) -> Tensor:
    """Mean of :func:`dpo_loss` over the alternative rows, each against the answer of the forget row it belongs to."""
    chosen = step.alternative.logp - step.alternative.reference_logp
    rejected = step.forget.logp - step.forget.reference_logp
    return step.alternative.mean_over_rows(dpo_loss(chosen, rejected[step.alternative.owner], beta))


@method_fields
class DPO(RetainingMethod):
    """Preference of a refusal, drawn once a row, over the forget answer, against the frozen target."""

    name: ClassVar[str] = "dpo"
    paper: ClassVar[Paper] = Paper("TOFU: A Task of Fictitious Unlearning for LLMs", "arXiv 2401.06121")
    reads_documents: ClassVar[bool] = False

    beta: float = Field(default=0.1, gt=0, description="inverse temperature of the preference")

    @property
    def reference_logps(self) -> Sides:
        return frozenset({"forget", "alternative"})

    def check_rows(self, forget: Sequence[Row], retain: Sequence[Row]) -> None:  # noqa: ARG002
        from expunge.training.alternatives import refusals

        refusals(forget, seed=0)

    def alternatives(self, forget: Sequence[Row], retain: Sequence[Row], *, context: Context) -> list[tuple[Row, ...]]:  # noqa: ARG002
        from expunge.training.alternatives import refusals

        return refusals(forget, seed=context.settings.seed)

    def loss(self, step: Step) -> dict[str, Tensor]:
        return {"forget_loss": preference_term(step, self.beta), **step.retain_term(self.alpha, self.retain)}
