"""AltPO: prefer plausible wrong answers, which the target itself makes up, to the forget answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from expunge.errors import ConfigError
from expunge.methods.interface import Paper, method_fields
from expunge.methods.weight_method import RetainingMethod, Sides
from expunge.methods.weights.dpo import preference_term

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.requests import Row
    from expunge.training.alternatives import Context
    from expunge.training.step import Step

INSTRUCTION = """Here is a question and an answer to it.
Question: {question}
Answer: {answer}
Write another answer to the question: as plausible, of about the same length and style, but with other facts.
Write that answer alone."""


@method_fields
class AltPO(RetainingMethod):
    """DPO with several wrong answers that the target generates for each forget prompt before training, used in turn."""

    name: ClassVar[str] = "altpo"
    paper: ClassVar[Paper] = Paper(
        "Alternate Preference Optimization for Unlearning Factual Knowledge in Large Language Models",
        "arXiv 2409.13474",
    )
    reads_documents: ClassVar[bool] = False
    alternatives_in_turn: ClassVar[bool] = True

    beta: float = Field(default=0.1, gt=0, description="inverse temperature of the preference")
    answers: int = Field(default=5, ge=1, description="different wrong answers generated for each forget prompt")
    instruction: str = Field(
        default=INSTRUCTION,
        description="what a chat model is asked, with {question} and {answer} filled in; empty, and for models without "
        "a chat template, the bare prompt is sampled",
    )

    def __post_init__(self) -> None:
        if self.instruction and "{question}" not in self.instruction:
            raise ConfigError("method.instruction has no {question} in it, so every prompt would be the same. Add it.")

    @property
    def reference_logps(self) -> Sides:
        return frozenset({"forget", "alternative"})

    def check_rows(self, forget: Sequence[Row], retain: Sequence[Row]) -> None:  # noqa: ARG002
        from expunge.training.alternatives import check_prompts

        check_prompts(forget, "be answered otherwise")

    def alternatives(self, forget: Sequence[Row], retain: Sequence[Row], *, context: Context) -> list[tuple[Row, ...]]:  # noqa: ARG002
        from expunge.training.alternatives import generated

        return generated(forget, context=context, count=self.answers, instruction=self.instruction)

    def loss(self, step: Step) -> dict[str, Tensor]:
        return {"forget_loss": preference_term(step, self.beta), **step.retain_term(self.alpha, self.retain)}
