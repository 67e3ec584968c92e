"""One row of a request or a benchmark, whatever file format it came from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

RowKind = Literal["question", "completion", "chat", "document"]


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt and the answer to it, or a plain document (whose prompt is empty).

    ``kind`` decides how the text is rendered: ``question`` and ``chat`` rows go through the tokenizer's chat
    template where there is one; a ``completion`` is joined to its prompt as it stands; a ``document`` is all
    answer. ``history`` holds the turns before the last prompt (role, content), a system turn included.
    ``group`` names the kind that a row is of (a skill, a topic), empty where nothing says so. ``source`` says where the
    row came from (``forget.jsonl:7``) and takes no part in equality.
    """

    prompt: str
    answer: str
    kind: RowKind = "question"
    history: tuple[tuple[str, str], ...] = ()
    paraphrased_prompt: str | None = None
    paraphrased_answer: str | None = None
    wrong_answers: tuple[str, ...] = ()
    group: str = ""
    source: str = field(default="", compare=False)

    def with_answer(self, answer: str) -> Row:
        """The same prompt with another answer (a paraphrase, a wrong one)."""
        return replace(self, answer=answer)

    def with_prompt(self, prompt: str) -> Row:
        """The same answer to another prompt (a paraphrased question)."""
        return replace(self, prompt=prompt)

    @property
    def key(self) -> tuple[str, ...]:
        """What makes two rows the same row: their text, letter case, white space and group aside."""
        parts = [text for turn in self.history for text in turn] + [self.prompt, self.answer]
        return tuple(" ".join(part.split()).casefold() for part in parts)
