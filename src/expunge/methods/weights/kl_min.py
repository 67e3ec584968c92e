"""KL minimisation: ascend on what must go, keep the target's whole distributions on what must stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from expunge.methods.interface import Paper, method_fields
from expunge.methods.weight_method import NO_SIDE, Sides, WeightMethod

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.training.step import Step


def kl_min_loss(logps: Tensor) -> Tensor:
    """-nll per token of the forget answers; the KL on retain answers is added beside it.

    Args:
        logps: [N] log-probabilities of the forget answers' tokens.

    Returns:
        [N] one loss a token, unbounded below.

    Source: Maini et al. 2024, TOFU, arXiv 2401.06121.
    """
    return logps


@method_fields
class KLMin(WeightMethod):
    """Gradient ascent on the forget answers, with KL from the frozen target on the retain answers."""

    name: ClassVar[str] = "kl_min"
    paper: ClassVar[Paper] = Paper("TOFU: A Task of Fictitious Unlearning for LLMs", "arXiv 2401.06121")

    alpha: float = Field(default=1.0, ge=0, description="weight of the KL on the retain answers")

    @property
    def reference_logits(self) -> Sides:
        return frozenset({"retain"}) if self.alpha > 0 else NO_SIDE

    def loss(self, step: Step) -> dict[str, Tensor]:
        forget = step.forget.mean_over_tokens(kl_min_loss(step.forget.logps))
        return {"forget_loss": forget, **step.retain_term(self.alpha, "kl")}
