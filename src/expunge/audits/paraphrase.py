"""The same questions in other words."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from expunge.audits.interface import Audited, Paper, method_fields
from expunge.audits.parts.attack import AskingAudit, asked_rows
from expunge.errors import ConfigError, did_you_mean
from expunge.requests.rows import Row

if TYPE_CHECKING:
    from expunge.audits.parts.answers import Way

_TEMPLATES = {
    "tell_me": "Tell me, please: {question}",
    "short": "{question} One sentence is enough.",
    "forgot": "I used to know this and have forgotten it. {question}",
}
_GIVEN = "paraphrased_prompt"
_FILE = "reworded"
_DISGUISES = ("typos", "lower_case", "spaced_name")


@method_fields
class Paraphrase(AskingAudit):
    """Forget questions reworded, disguised, or translated where translations are given."""

    name: ClassVar[str] = "paraphrase"
    version: ClassVar[int] = 2
    paper: ClassVar[Paper] = Paper(
        "Revisiting Who's Harry Potter: Towards Targeted Unlearning from a Causal Intervention Perspective",
        "arXiv:2407.16997",
    )
    order: ClassVar[int] = 16
    doing_template: ClassVar[str] = "Asked in {count} other ways"

    limit: int = Field(default=20, gt=0, description="forget rows that are asked, evenly spread")
    disguises: tuple[str, ...] = Field(
        default=_DISGUISES, description="perturbations of the questions (those of the guards' robustness)"
    )
    reworded: str | None = Field(
        default=None,
        description="file with rewordings or translations of your own: rows with prompt and paraphrased_prompt",
    )

    def check_options(self) -> None:
        from expunge.guards.robustness import PERTURBATIONS

        unknown = [name for name in self.disguises if name not in PERTURBATIONS]
        if unknown:
            raise ConfigError(
                f"audits.paraphrase.disguises: there is no {', '.join(unknown)}. "
                f"{did_you_mean(unknown[0], PERTURBATIONS)}"
            )

    def check(self, audited: Audited) -> None:
        super().check(audited)
        self._own(asked_rows(audited, self.limit))

    def ways(self, audited: Audited, rows: Sequence[Row]) -> list[Way]:
        from expunge.audits.parts.answers import Way
        from expunge.audits.parts.answers import reworded as with_prompts
        from expunge.guards.robustness import PERTURBATIONS

        names = (*audited.request.subjects, *audited.request.aliases)
        found = {
            _GIVEN: [row.paraphrased_prompt for row in rows],
            _FILE: self._own(rows),
            **{name: [text.replace("{question}", row.prompt) for row in rows] for name, text in _TEMPLATES.items()},
            **{
                name: [
                    PERTURBATIONS[name](row.prompt, names, random.Random(f"{audited.seed} {name} {row.prompt}"))
                    for row in rows
                ]
                for name in self.disguises
            },
        }
        texts = audited.texts
        return [
            # a row that a way says nothing about is asked as it is, by every model alike
            Way(name, with_prompts(rows, [text or row.prompt for text, row in zip(some, rows, strict=True)]), texts)
            for name, some in found.items()
            if any(text is not None for text in some)
        ]

    def _own(self, rows: Sequence[Row]) -> list[str | None]:
        """The rewordings of the file, by the rows' prompts."""
        if self.reworded is None:
            return [None] * len(rows)
        from expunge.requests.request import load_rows

        given = load_rows(str(Path(self.reworded).expanduser()), name=f"audits.paraphrase.reworded={self.reworded}")
        said = {" ".join(row.prompt.split()): row.paraphrased_prompt for row in given if row.paraphrased_prompt}
        found = [said.get(" ".join(row.prompt.split())) for row in rows]
        if not any(found):
            raise ConfigError(
                f"audits.paraphrase.reworded={self.reworded}: none of its {len(given)} rows has a paraphrased_prompt "
                "beside the prompt of a forget row. Repeat the forget rows' prompts there, word for word."
            )
        return found
