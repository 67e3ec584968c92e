"""Model outputs written by hand, without a model, for tests of metrics, scores and verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from expunge.evaluation.types import AnswerScores, ModelOutputs, RowOutputs, SetOutputs
from expunge.requests.rows import Row


def answer(*probabilities: float, hits: str = "", has_end: bool = True) -> AnswerScores:
    """An answer whose tokens have these probabilities; ``hits`` such as ``"1101"`` (all of them unless given)."""
    marks = hits or "1" * len(probabilities)
    logps = np.array([math.log(one) for one in probabilities], dtype=np.float32)
    return AnswerScores(logps, np.array([mark == "1" for mark in marks], dtype=bool), has_end)


def outputs_row(
    expected: str = "a b c d",
    *,
    probability: float = 0.5,
    wrong: Sequence[float] = (),
    paraphrase: float | None = None,
    greedy: str | None = None,
    tokens: Sequence[int] = (1, 2, 3, 4, 5),
    under_target: float | None = None,
) -> RowOutputs:
    """A row whose answers are two tokens of equal probability (so that is their length-normalised probability too)."""

    def two(value: float) -> AnswerScores:
        return answer(value, value)

    return RowOutputs(
        row=Row("a question", expected, wrong_answers=tuple(f"wrong {i}" for i in range(len(wrong)))),
        answer=two(probability),
        paraphrase=None if paraphrase is None else two(paraphrase),
        wrong=tuple(two(one) for one in wrong),
        greedy=greedy,
        greedy_tokens=tuple(tokens) if greedy is not None else (),
        greedy_end=0 if greedy is not None else None,
        greedy_under_target=None if under_target is None else two(under_target),
    )


def outputs_set(name: str, rows: Sequence[RowOutputs]) -> SetOutputs:
    return SetOutputs(name, tuple(rows))


def model_outputs(**sets: Sequence[RowOutputs]) -> ModelOutputs:
    return ModelOutputs({name: outputs_set(name, rows) for name, rows in sets.items()})
