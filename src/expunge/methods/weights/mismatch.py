"""Mismatch: teach each forget prompt the answer of some retain row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from expunge.methods.interface import Paper, method_fields
from expunge.methods.weight_method import NO_SIDE, RetainingMethod, Sides

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.requests import Row
    from expunge.training.alternatives import Context
    from expunge.training.step import Step


def mismatch_loss(logps: Tensor) -> Tensor:
    """nll per token of the random answers that stand beside the forget prompts.

    Args:
        logps: [N] log-probabilities of the random answers' tokens.

    Returns:
        [N] one loss a token, at least 0.

    Source: Liu et al. 2024, arXiv 2406.07933.
    """
    return -logps


@method_fields
class Mismatch(RetainingMethod):
    """Fine-tuning on forget prompts with the answers of random retain rows, drawn once a row."""

    name: ClassVar[str] = "mismatch"
    paper: ClassVar[Paper] = Paper(
        "Large Language Model Unlearning via Embedding-Corrupted Prompts", "arXiv 2406.07933"
    )
    uses_forget: ClassVar[bool] = False

    @property
    def uses_retain(self) -> bool:
        return True  # the answers come from there, whatever alpha is

    @property
    def reference_logits(self) -> Sides:
        return frozenset({"retain"}) if self.alpha > 0 and self.retain == "kl" else NO_SIDE

    def sides(self, epoch: int) -> Sides:  # noqa: ARG002
        return frozenset({"alternative", "retain"}) if self.alpha > 0 else frozenset({"alternative"})

    def check_rows(self, forget: Sequence[Row], retain: Sequence[Row]) -> None:
        from expunge.training.alternatives import retain_answers

        retain_answers(forget, retain, seed=0)

    def alternatives(self, forget: Sequence[Row], retain: Sequence[Row], *, context: Context) -> list[tuple[Row, ...]]:
        from expunge.training.alternatives import retain_answers

        return retain_answers(forget, retain, seed=context.settings.seed)

    def loss(self, step: Step) -> dict[str, Tensor]:
        random = step.alternative.mean_over_tokens(mismatch_loss(step.alternative.logps))
        return {"forget_loss": random, **step.retain_term(self.alpha, self.retain)}
