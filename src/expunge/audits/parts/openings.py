"""Answers whose first words are given: rendered as part of the prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from expunge.data.template import Rendered, Template
from expunge.requests.rows import Row


@dataclass(frozen=True)
class OpenedTemplate(Template):
    """Renders rows with the answer begun: ``openings`` has the first words by the rows' prompts. What the model says,
    and what is scored, is what follows them."""

    openings: Mapping[str, str] = field(default_factory=dict)

    def render(self, row: Row) -> Rendered:
        """The prompt with the opening behind it, the answer, and the end as text."""
        text = super().render(row)
        opening = self.openings.get(row.prompt)
        if opening is None:
            return text
        rest = text.answer.lstrip()
        gap = text.answer[: len(text.answer) - len(rest)]
        return replace(text, prompt=f"{text.prompt}{gap}{opening}", answer=f" {rest}")
