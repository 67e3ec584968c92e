"""Prompt distillation: learn what the target says when it is told never to have heard of the subject."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from expunge.methods.interface import Paper, method_fields
from expunge.methods.taught_method import TaughtMethod

if TYPE_CHECKING:
    from expunge.requests import Request
    from expunge.teachers.prompt_teaching import PromptTeaching

INSTRUCTION = (
    "Act as if you had never heard of {subjects}: you know nothing about who that is. If you are asked, say that you "
    "do not know."
)


@method_fields
class PromptDistill(TaughtMethod):
    """Distillation from the target with an instruction to know nothing of the subject, and as it is on retain rows."""

    name: ClassVar[str] = "prompt_distill"
    paper: ClassVar[Paper] = Paper(
        "Revisiting Who's Harry Potter: Towards Targeted Unlearning from a Causal Intervention Perspective",
        "arXiv 2407.16997",
    )

    instruction: str = Field(
        default=INSTRUCTION, min_length=1, description="what the teacher is told; {subjects} stands for the names"
    )
    top_k: int = Field(default=300, ge=1, description="tokens kept of each of the teacher's distributions")
    alpha: float = Field(default=1.0, ge=0, description="weight of the retain term")
    retain: Literal["nll", "kl"] = Field(
        default="kl", description="retain term: KL from the frozen target on the retain answers, or their nll"
    )

    def teaching(self, request: Request) -> PromptTeaching:
        from expunge.teachers.prompt_teaching import PromptTeaching

        return PromptTeaching(self.instruction, request.subjects, self.top_k)
