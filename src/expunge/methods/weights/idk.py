"""IDK: teach each forget prompt a refusal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from expunge.methods.interface import Paper, method_fields
from expunge.methods.weight_method import RetainingMethod

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.requests import Row
    from expunge.training.alternatives import Context
    from expunge.training.step import Step


def idk_loss(logps: Tensor) -> Tensor:
    """nll per token of the refusals that stand beside the forget prompts.

    Args:
        logps: [N] log-probabilities of the refusals' tokens.

    Returns:
        [N] one loss a token, at least 0.

    Source: Maini et al. 2024, TOFU, arXiv 2401.06121.
    """
    return -logps


@method_fields
class IDK(RetainingMethod):
    """Fine-tuning on forget prompts with refusals, drawn once a row."""

    name: ClassVar[str] = "idk"
    paper: ClassVar[Paper] = Paper("TOFU: A Task of Fictitious Unlearning for LLMs", "arXiv 2401.06121")
    reads_documents: ClassVar[bool] = False
    uses_forget: ClassVar[bool] = False

    def check_rows(self, forget: Sequence[Row], retain: Sequence[Row]) -> None:  # noqa: ARG002
        from expunge.training.alternatives import refusals

        refusals(forget, seed=0)

    def alternatives(self, forget: Sequence[Row], retain: Sequence[Row], *, context: Context) -> list[tuple[Row, ...]]:  # noqa: ARG002
        from expunge.training.alternatives import refusals

        return refusals(forget, seed=context.settings.seed)

    def loss(self, step: Step) -> dict[str, Tensor]:
        refusal = step.alternative.mean_over_tokens(idk_loss(step.alternative.logps))
        return {"forget_loss": refusal, **step.retain_term(self.alpha, self.retain)}
