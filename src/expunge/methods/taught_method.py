"""The base of methods whose forget loss is the distance to a teacher. Importing this loads no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from expunge.methods.interface import method_fields
from expunge.methods.weight_method import RetainingMethod

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.training.step import Step


@method_fields
class TaughtMethod(RetainingMethod):
    """KL(teacher || p_theta), mean over the tokens that the teaching has a distribution for, and a retain term."""

    alpha: float = Field(default=0.0, ge=0, description="weight of the retain term")

    def loss(self, step: Step) -> dict[str, Tensor]:
        forget = step.forget.mean_over_taught(step.forget.teacher_kl())
        return {"forget_loss": forget, **step.retain_term(self.alpha, self.retain)}
