"""Fixed rules over the words of question, right answer and answer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from expunge.evaluation.answer_judge import AnswerJudge, Asked, Given
from expunge.evaluation.answer_rules import PART, WHOLE, privacy, quality
from expunge.evaluation.refusals import declines
from expunge.evaluation.types import AnswerVerdict

if TYPE_CHECKING:
    from expunge.training.run import Progress


@lru_cache(maxsize=16384)
def by_rules(asked: Asked) -> AnswerVerdict:
    """The verdict of :mod:`expunge.evaluation.answer_rules` and :func:`~expunge.evaluation.refusals.declines`."""
    return AnswerVerdict(
        privacy(asked.question, asked.reference, asked.answer),
        quality(asked.question, asked.reference, asked.answer),
        float(declines(asked.answer)),
    )


class Rules(AnswerJudge):
    """Privacy by the names, numbers and other content words that an answer has of the right one, quality by repetition
    and by whether words look like words, rejection by fixed English phrases."""

    name = "rules"
    version = 2
    form = "rules"
    takes = ()

    @classmethod
    def is_meant(cls, text: str) -> bool:
        return text == cls.name

    @classmethod
    def make(cls, given: Given) -> Rules:  # noqa: ARG003
        return cls()

    def verdicts(self, asked: Sequence[Asked], *, progress: Progress | None = None) -> list[AnswerVerdict]:  # noqa: ARG002
        return [by_rules(one) for one in asked]

    @property
    def sentence(self) -> str:
        return "fixed rules over their words"

    @property
    def settings(self) -> dict[str, Any]:
        return {"whole": WHOLE, "part": PART}


JUDGE = Rules
