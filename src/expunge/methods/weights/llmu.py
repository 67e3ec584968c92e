"""LLMU: ascend on what must go, teach random answers in its place, keep the target's distributions elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from expunge.errors import ConfigError
from expunge.methods.interface import Paper, method_fields
from expunge.methods.weight_method import NO_SIDE, SideName, Sides, WeightMethod

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.requests import Row
    from expunge.training.alternatives import Context
    from expunge.training.step import Step


def llmu_forget_loss(logps: Tensor, e1: float) -> Tensor:
    """-e1 nll per token of the forget answers.

    Args:
        logps: [N] log-probabilities of the forget answers' tokens.
        e1: weight of the ascent.

    Returns:
        [N] one loss a token, unbounded below.

    Source: Yao et al. 2023, arXiv 2310.10683.
    """
    return e1 * logps


def llmu_random_loss(logps: Tensor, e2: float) -> Tensor:
    """e2 nll per token of random retain answers to the forget prompts.

    Args:
        logps: [N] log-probabilities of the random answers' tokens.
        e2: weight of the mismatch.

    Returns:
        [N] one loss a token, at least 0.

    Source: Yao et al. 2023, arXiv 2310.10683.
    """
    return -e2 * logps


@method_fields
class LLMU(WeightMethod):
    """Gradient ascent, random retain answers to the forget prompts, and KL from the frozen target on retain answers."""

    name: ClassVar[str] = "llmu"
    paper: ClassVar[Paper] = Paper("Large Language Model Unlearning", "arXiv 2310.10683")

    e1: float = Field(default=0.1, ge=0, description="weight of the ascent on the forget answers")
    e2: float = Field(default=1.0, ge=0, description="weight of the nll of random retain answers to the forget prompts")
    e3: float = Field(default=1.0, ge=0, description="weight of the KL on the retain answers")

    def __post_init__(self) -> None:
        if self.e1 == self.e2 == self.e3 == 0:
            raise ConfigError("llmu: e1, e2 and e3 are all 0, so there is no loss. Set at least one above 0.")

    @property
    def uses_retain(self) -> bool:
        return self.e2 > 0 or self.e3 > 0

    @property
    def reference_logits(self) -> Sides:
        return frozenset({"retain"}) if self.e3 > 0 else NO_SIDE

    def sides(self, epoch: int) -> Sides:  # noqa: ARG002
        weights: dict[SideName, float] = {"forget": self.e1, "alternative": self.e2, "retain": self.e3}
        return frozenset(side for side, weight in weights.items() if weight > 0)

    def check_rows(self, forget: Sequence[Row], retain: Sequence[Row]) -> None:
        from expunge.training.alternatives import retain_answers

        if self.e2 > 0:
            retain_answers(forget, retain, seed=0)

    def alternatives(self, forget: Sequence[Row], retain: Sequence[Row], *, context: Context) -> list[tuple[Row, ...]]:
        from expunge.training.alternatives import retain_answers

        if self.e2 == 0:
            return [()] * len(forget)
        return retain_answers(forget, retain, seed=context.settings.seed)

    def loss(self, step: Step) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        if self.e1 > 0:
            terms["forget_loss"] = step.forget.mean_over_tokens(llmu_forget_loss(step.forget.logps, self.e1))
        if self.e2 > 0:
            values = llmu_random_loss(step.alternative.logps, self.e2)
            terms["random_loss"] = step.alternative.mean_over_tokens(values)
        return {**terms, **step.retain_term(self.e3, "kl")}
