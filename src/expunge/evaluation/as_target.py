"""Scores that compare a model's greedy answers with the target's own, where nothing says what the right ones are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from expunge.evaluation.metric import ModelValues, SuiteMetric, UndefinedScoreError
from expunge.evaluation.types import Score
from expunge.evaluation.uncertainty import mean_stderr


def as_target(
    name: str, set_name: str, alike: Callable[[str, str], float], *, summary: str, version: int = 1, paper: str = ""
) -> SuiteMetric:
    """The mean of ``alike(target's answer, own answer)`` over the rows of ``set_name``, rows where it is NaN left out.

    The set must have the metric ``answer_words``, which hands the answers on. Of the target itself it is 1 where
    ``alike`` of a text and itself is.
    """
    key = f"{set_name}_answer_words"

    def compute(own: ModelValues, target: ModelValues | None) -> Score:
        if target is None:
            raise UndefinedScoreError(f"{name} has no value: the target was not scored (--model DIR of it).")
        pairs = zip(_texts(target, key), _texts(own, key), strict=True)
        values = np.array([alike(before, after) for before, after in pairs if before is not None and after is not None])
        values = values[~np.isnan(values)]
        if not len(values):
            raise UndefinedScoreError(f"{name} has no value: no answer of the target has a word to compare with.")
        return Score(float(values.mean()), mean_stderr(values), len(values), version)

    return SuiteMetric(
        name=name, version=version, summary=summary, requires=(key,), compute=compute, paper=paper, against="target"
    )


def _texts(values: ModelValues, key: str) -> list[str | None]:
    return [None if said is None else str(said["text"]) for said in values.outcomes.get(key, ())]
