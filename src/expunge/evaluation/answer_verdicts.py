"""Whose word a metric takes on a row's greedy answer: the suite's first answer judge, or the rules."""

from __future__ import annotations

from functools import lru_cache

from expunge.evaluation.answer_judge import ENTAILMENT, Asked
from expunge.evaluation.answer_judges.rules import by_rules
from expunge.evaluation.answer_rules import entailment, graded
from expunge.evaluation.types import AnswerVerdict, RowOutputs


def verdict_on(row: RowOutputs) -> AnswerVerdict | None:
    """The verdict on the row's greedy answer, None where it has none: the first judge's, else the rules'."""
    if row.greedy is None:
        return None
    first = next(iter(row.verdicts.values()), None)
    return first if first is not None else by_rules(Asked(row.row.prompt, row.row.answer, row.greedy))


def entailed(row: RowOutputs) -> float | None:
    """Whether the greedy answer entails the right one (0, 0.5, 1), None where there is no answer: by judge
    ``entailment`` where it is among the suite's, else word by word."""
    if row.greedy is None:
        return None
    said = row.verdicts.get(ENTAILMENT)
    return said.privacy if said is not None else _by_words(row.row.prompt, row.row.answer, row.greedy)


@lru_cache(maxsize=16384)
def _by_words(question: str, reference: str, answer: str) -> float:
    return graded(entailment(question, reference, answer))
