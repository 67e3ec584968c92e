"""SCRUB: epochs that move away from the target on what must go, and epochs that stay close on what must stay."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from expunge.errors import ConfigError
from expunge.methods.interface import Paper, method_fields
from expunge.methods.weight_method import SideName, Sides, WeightMethod

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.training.step import Step


def scrub_distance(logits: Tensor, labels: Tensor, reference_logits: Tensor, *, temperature: float) -> Tensor:  # noqa: ARG001
    """T^2 KL(p_ref^(1/T) || p_theta^(1/T)) of each token, both softened and normalised over the vocabulary.

    Args:
        logits: [n, V] of the model being trained.
        labels: [n] token ids; the distance does not depend on them.
        reference_logits: [n, V] of the frozen target; no gradient flows into them.
        temperature: T; the factor T^2 keeps the size of the gradient as T grows.

    Returns:
        [n] one distance a token, in nats, at least 0.

    Source: Kurmanji et al. 2023, arXiv 2302.09880.
    """
    from torch.nn.functional import kl_div

    reference = (reference_logits.detach() / temperature).log_softmax(-1)
    distance = kl_div((logits / temperature).log_softmax(-1), reference, reduction="none", log_target=True).sum(-1)
    return temperature**2 * distance


@method_fields
class SCRUB(WeightMethod):
    """Max epochs raise the distance to the target on forget answers, min epochs lower it and the nll on retain ones."""

    name: ClassVar[str] = "scrub"
    paper: ClassVar[Paper] = Paper("Towards Unbounded Machine Unlearning", "arXiv 2302.09880")
    whole_epochs: ClassVar[bool] = True

    T: float = Field(default=4.0, gt=0, description="temperature of both distances")
    a: float = Field(default=0.001, ge=0, description="weight of the distance to the target on retain answers")
    g: float = Field(default=1.0, ge=0, description="weight of the nll of the retain answers")
    order: tuple[Literal["max", "min"], ...] = Field(
        default=("max", "min", "max", "min", "min"),
        min_length=1,
        description="what each epoch is; epochs beyond the list are min",
    )

    def __post_init__(self) -> None:
        if self.a == self.g == 0:
            raise ConfigError("scrub: a and g are both 0, so min epochs have no loss. Set at least one above 0.")

    @property
    def uses_retain(self) -> bool:
        return self.a > 0 or self.g > 0

    @property
    def reference_logits(self) -> Sides:
        return frozenset({"forget", "retain"}) if self.a > 0 else frozenset({"forget"})

    def kind(self, epoch: int) -> Literal["max", "min"]:
        """What pass ``epoch`` (from 0) over the forget rows is."""
        return self.order[epoch] if epoch < len(self.order) else "min"

    def remark(self, epochs: float) -> str | None:
        last = math.ceil(epochs)
        if self.kind(last - 1) == "min":
            return None
        return (
            f"scrub: epoch {last}, the last one planned, is a max epoch: nothing afterwards brings the retain answers "
            "back. Change training.epochs (or training.max_steps) or method.order so that the last one is min."
        )

    def sides(self, epoch: int) -> Sides:
        side: SideName = "forget" if self.kind(epoch) == "max" else "retain"
        return frozenset({side})

    def loss(self, step: Step) -> dict[str, Tensor]:
        distance = partial(scrub_distance, temperature=self.T)
        if self.kind(step.epoch) == "max":
            return {"forget_loss": -step.forget.mean_over_tokens(step.forget.per_token(distance, reference=True))}
        terms = step.retain_term(self.g)
        if self.a > 0:
            values = step.retain.per_token(distance, reference=True)
            terms["retain_distance"] = self.a * step.retain.mean_over_tokens(values)
        return terms
