"""Fine-tuning on what must stay: the baseline that hopes the rest is forgotten by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from expunge.methods.interface import Paper, method_fields
from expunge.methods.weight_method import RetainingMethod

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.training.step import Step


def finetune_loss(logps: Tensor) -> Tensor:
    """nll per token.

    Args:
        logps: [N] log-probabilities of the answers' tokens.

    Returns:
        [N] one loss a token, at least 0.
    """
    return -logps


@method_fields
class Finetune(RetainingMethod):
    """Plain fine-tuning on the retain answers, for as many steps as the other methods get."""

    name: ClassVar[str] = "finetune"
    paper: ClassVar[Paper] = Paper("TOFU: A Task of Fictitious Unlearning for LLMs", "arXiv 2401.06121")
    uses_forget: ClassVar[bool] = False

    alpha: float = Field(default=1.0, gt=0, description="weight of the retain term")

    def loss(self, step: Step) -> dict[str, Tensor]:
        return step.retain_term(self.alpha, self.retain)
