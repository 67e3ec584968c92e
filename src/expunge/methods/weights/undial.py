"""UNDIAL: learn the target's own distributions with the forget answer's tokens marked down."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from expunge.methods.interface import Paper, method_fields
from expunge.methods.weight_method import RetainingMethod, Sides

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.training.step import Step


def undial_loss(logits: Tensor, labels: Tensor, reference_logits: Tensor, *, beta: float) -> Tensor:
    """Cross-entropy of each forget answer token to softmax(z_ref - beta onehot(y)).

    Args:
        logits: [n, V] of the model being trained.
        labels: [n] token ids of the forget answers.
        reference_logits: [n, V] of the frozen target; no gradient flows into them.
        beta: how far the answer token's logit is lowered.

    Returns:
        [n] one loss a token, in nats, at least the teacher's own entropy. Its gradient by a logit is
        softmax(z) - teacher, so it ends where the teacher is reached.

    Source: Dong et al. 2024, arXiv 2402.10052.
    """
    from torch.nn.functional import one_hot

    lowered = reference_logits.detach() - beta * one_hot(labels, logits.shape[-1])
    return -(lowered.softmax(-1) * logits.log_softmax(-1)).sum(-1)


@method_fields
class UNDIAL(RetainingMethod):
    """Self-distillation from the frozen target, whose forget answer tokens' logits are lowered."""

    name: ClassVar[str] = "undial"
    paper: ClassVar[Paper] = Paper(
        "UNDIAL: Self-Distillation with Adjusted Logits for Robust Unlearning in Large Language Models",
        "arXiv 2402.10052",
    )

    beta: float = Field(default=10.0, gt=0, description="how far the answer tokens' logits are lowered in the teacher")
    alpha: float = Field(default=0.0, ge=0, description="weight of the retain term")

    @property
    def reference_logits(self) -> Sides:
        return super().reference_logits | {"forget"}

    def loss(self, step: Step) -> dict[str, Tensor]:
        forget = step.forget.per_token(partial(undial_loss, beta=self.beta), reference=True)
        return {"forget_loss": step.forget.mean_over_tokens(forget), **step.retain_term(self.alpha, self.retain)}
