"""Teaching by an instruction: the target's word on the forget rows when it is told to know nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from expunge.errors import RequestError
from expunge.requests.rows import Row
from expunge.teachers.sparse_rows import TOP_K

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from expunge.data.encode import Example
    from expunge.data.template import Template
    from expunge.teachers.sparse_store import SparseStore
    from expunge.training.alternatives import Context


@dataclass(frozen=True)
class PromptTeaching:
    """``instruction``, in which {subjects} stands for the names, before every forget row's prompt; ``top_k`` tokens of
    each distribution are kept."""

    instruction: str
    subjects: tuple[str, ...]
    top_k: int = TOP_K

    def __post_init__(self) -> None:
        if "{subjects}" in self.instruction and not self.subjects:
            raise RequestError(
                "prompt_distill names the subjects of the request, and it has none. Pass --subject NAME (once for "
                "each), or a method.instruction without {subjects}."
            )

    def rows(
        self,
        forget: Sequence[Row],
        tokenizer: PreTrainedTokenizerBase,
        template: Template,  # noqa: ARG002
        max_length: int,
    ) -> Sequence[Row]:
        """The forget rows; documents so cut that the instruction fits before each piece."""
        from expunge.data.documents import split_documents

        room = max_length - len(tokenizer(self.text, verbose=False)["input_ids"])
        return split_documents(forget, tokenizer, max(room, 16))

    def targets(self, rows: Sequence[Row], examples: Sequence[Example], context: Context) -> SparseStore:
        """What the instructed target says at each of the answers' tokens."""
        from expunge.data.encode import encode_all
        from expunge.models.limits import max_tokens
        from expunge.teachers.build import taught
        from expunge.teachers.plans import prompted_plan

        limit = max_tokens(context.model, 2**31)
        asked = encode_all(context.tokenizer, context.template, [self.told(row) for row in rows], max_length=limit)
        pairs = zip(examples, asked, strict=True)
        plans = [prompted_plan(number, own, theirs) for number, (own, theirs) in enumerate(pairs)]
        return taught(plans, len(rows), context, top_k=self.top_k)

    @property
    def text(self) -> str:
        """The instruction with the names in it."""
        from expunge.guards.instruction_guard import instruction_text

        return instruction_text(self.instruction, self.subjects)

    def told(self, row: Row) -> Row:
        """The row with the instruction before its first turn, or before a document."""
        if row.kind == "document":
            return replace(row, prompt=self.text, answer="\n\n" + row.answer, kind="completion")
        if row.history:
            (role, first), *rest = row.history
            return replace(row, history=((role, f"{self.text}\n\n{first}"), *rest))
        return row.with_prompt(f"{self.text}\n\n{row.prompt}")
