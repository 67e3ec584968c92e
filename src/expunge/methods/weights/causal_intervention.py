"""Causal intervention: learn what the target would say of somebody else, under the subject's own name."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from expunge.errors import ConfigError
from expunge.methods.interface import Paper, method_fields
from expunge.methods.taught_method import TaughtMethod

if TYPE_CHECKING:
    from expunge.requests import Request
    from expunge.teachers.name_teaching import NameTeaching


@method_fields
class CausalIntervention(TaughtMethod):
    """Distillation from the target itself on the same texts with the subject's name swapped for others'."""

    name: ClassVar[str] = "causal_intervention"
    paper: ClassVar[Paper] = Paper(
        "Revisiting Who's Harry Potter: Towards Targeted Unlearning from a Causal Intervention Perspective",
        "arXiv 2407.16997",
    )

    substitutes: int = Field(
        default=20,
        ge=1,
        description="names that stand in for each subject, the request's own or drawn from the shipped lists "
        "by training.seed (the paper's TOFU: 1)",
    )
    substitute_names: tuple[str, ...] = Field(default=(), description="names to stand in instead of those")
    lead_in: str = Field(
        default="Complete the following passage about {name}.",
        description="stands before each chunk of a document, with {name} for the subject's name; empty for nothing",
    )
    sentences: int = Field(default=3, ge=1, description="sentences of a chunk of a document")
    name_teacher: bool = Field(
        default=True, description="teach the name in an answer apart where the question does not say it"
    )
    others: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="other entities to swap (book titles), each with the names that stand in"
    )
    non_factual: int = Field(
        default=0, ge=0, description="passages about invented people, on which the target is to stay as it is"
    )
    top_k: int = Field(default=300, ge=1, description="tokens kept of each of the teacher's distributions")

    def __post_init__(self) -> None:
        if self.lead_in and "{name}" not in self.lead_in:
            raise ConfigError("method.lead_in has no {name} in it. Add it, or leave the lead-in empty.")

    def teaching(self, request: Request) -> NameTeaching:
        from expunge.teachers.name_teaching import NameTeaching, subjects_of

        return NameTeaching(
            subjects=subjects_of(request, self.name, self.others),
            given=self.substitute_names or request.substitutes[: self.substitutes],
            count=self.substitutes,
            lead_in=self.lead_in,
            sentences=self.sentences,
            name_teacher=self.name_teacher,
            non_factual=self.non_factual,
            top_k=self.top_k,
        )
