"""Who's Harry Potter: learn the one token that the target would choose if the subject were somebody else."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from expunge.methods.interface import Paper, method_fields
from expunge.methods.taught_method import TaughtMethod

if TYPE_CHECKING:
    from expunge.requests import Request
    from expunge.teachers.name_teaching import NameTeaching


@method_fields
class WHP(TaughtMethod):
    """Fine-tuning on the target's likeliest tokens for the same texts with the subject's name swapped for another's."""

    name: ClassVar[str] = "whp"
    paper: ClassVar[Paper] = Paper("Who's Harry Potter? Approximate Unlearning in LLMs", "arXiv 2310.02238")

    substitute_name: str = Field(
        default="",
        description="the name that stands in; empty: the request's first, or one of the shipped lists",
    )
    chunk_tokens: int = Field(default=256, ge=32, description="tokens of a chunk of a document")
    lowered: float = Field(
        default=5.0, ge=0, description="how far the logits of that name's tokens are lowered after the first mention"
    )

    def teaching(self, request: Request) -> NameTeaching:
        from expunge.teachers.name_teaching import NameTeaching, subjects_of

        return NameTeaching(
            subjects=subjects_of(request, self.name),
            given=(self.substitute_name,) if self.substitute_name else request.substitutes[:1],
            count=1,
            lead_in="",
            chunk_tokens=self.chunk_tokens,
            style="whp",
            name_teacher=False,
            lowered=self.lowered,
        )
