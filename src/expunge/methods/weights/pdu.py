"""PDU: flatten the logits of what must go, under a bound on the loss of what must stay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from expunge.methods.interface import Paper, method_fields
from expunge.methods.weight_method import WeightMethod

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.training.step import Step

_DUAL = "lambda"
_RETAIN = "retain_nll"


def pdu_loss(logits: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG001
    """(max z - mean z)^2 of each token: 0 where the next token is uniform.

    Args:
        logits: [n, V] of the model being trained.
        labels: [n] token ids; the loss does not depend on them.

    Returns:
        [n] one loss a token. With m = max z - mean z its gradient is 2 m (1 - 1/V) at the largest logit and -2 m / V at
        every other one.

    Source: Entesari et al. 2025, arXiv 2506.05314 (logit-margin flattening).
    """
    return (logits.amax(-1) - logits.mean(-1)) ** 2


def dual_step(dual: float, retain_nll: float, eps: float, eta: float) -> float:
    """max(0, lambda + eta (retain_nll - eps)): the dual variable after a step whose retain loss was ``retain_nll``.

    Grows while the retain loss is above its bound ``eps``, falls (to 0 at least) while it is below.

    Source: Entesari et al. 2025, arXiv 2506.05314.
    """
    return max(0.0, dual + eta * (retain_nll - eps))


@method_fields
class PDU(WeightMethod):
    """Flat logits on forget answers, with the retain nll held under ``eps`` by a dual variable instead of a weight."""

    name: ClassVar[str] = "pdu"
    paper: ClassVar[Paper] = Paper(
        "Constrained Entropic Unlearning: A Primal-Dual Framework for Large Language Models", "arXiv 2506.05314"
    )

    eps: float = Field(ge=0, description="bound on the nll of the retain answers, in nats a token")
    initial: float = Field(default=50.0, ge=0, description="the dual variable at the start")
    eta: float = Field(default=5.0, ge=0, description="step size of the dual variable")
    warmup_epochs: float = Field(default=5.0, ge=0, description="epochs before the dual variable first moves")

    @property
    def uses_retain(self) -> bool:
        return True

    def initial_state(self) -> dict[str, float]:
        return {_DUAL: self.initial}

    def remark(self, epochs: float) -> str | None:
        if epochs > self.warmup_epochs or self.eta == 0:
            return None
        return (
            f"pdu: method.warmup_epochs={self.warmup_epochs:g} and {epochs:g} epochs are planned, so the dual variable "
            f"stays at {self.initial:g} in every step and method.eps decides nothing. Raise training.epochs above "
            "method.warmup_epochs, or lower method.warmup_epochs."
        )

    def after_step(self, state: Mapping[str, float], terms: Mapping[str, float], *, epoch: float) -> dict[str, float]:
        if epoch < self.warmup_epochs:
            return dict(state)
        return {**state, _DUAL: dual_step(state[_DUAL], terms[_RETAIN], self.eps, self.eta)}

    def loss(self, step: Step) -> dict[str, Tensor]:
        step.observe(_RETAIN, step.retain.mean_over_tokens(-step.retain.logps))
        forget = step.forget.mean_over_tokens(step.forget.per_token(pdu_loss))
        return {"forget_loss": forget, **step.retain_term(step.state[_DUAL])}
