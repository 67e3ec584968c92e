"""Privacy by entailment: would someone who believes the answer know the right one? By a model, or word by word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from expunge.errors import ConfigError
from expunge.evaluation.answer_judge import ENTAILMENT, AnswerJudge, Asked, Given
from expunge.evaluation.answer_judges.rules import by_rules
from expunge.evaluation.answer_rules import ENTAILED, PARTLY_ENTAILED, entailment, graded
from expunge.evaluation.pair_classifier import PairClassifier
from expunge.evaluation.types import AnswerVerdict

if TYPE_CHECKING:
    from expunge.training.run import Progress

_ENTAILS = re.compile(r"entail", re.IGNORECASE)
_DENIED = re.compile(r"(?:non|not|no)[\s_-]?entail", re.IGNORECASE)


class Entailment(AnswerJudge):
    """Privacy by how far the answer entails the right one: whole from two thirds, in part from one third.

    With ``model``, the folder or hub id of a natural-language-inference model, that is the probability of its label for
    entailment, given question and answer as premise and question and right answer as hypothesis. Without one it is
    :func:`expunge.evaluation.answer_rules.entailment`. Quality and rejection are the rules'.
    """

    name = ENTAILMENT
    version = 2
    form = ENTAILMENT
    takes = ("entailment_model",)

    def __init__(self, model: str | Path | None = None) -> None:
        self._classifier: PairClassifier | None = None
        if model is not None:
            self._classifier = PairClassifier(model, option="suite.entailment_model", local=False)
            self._place = _entailment_label(self._classifier)

    @classmethod
    def is_meant(cls, text: str) -> bool:
        return text == cls.name

    @classmethod
    def make(cls, given: Given) -> Entailment:
        return cls(given.entailment_model)

    def verdicts(self, asked: Sequence[Asked], *, progress: Progress | None = None) -> list[AnswerVerdict]:
        degrees = self._degrees(asked, progress)
        return [replace(by_rules(one), privacy=graded(degree)) for one, degree in zip(asked, degrees, strict=True)]

    def _degrees(self, asked: Sequence[Asked], progress: Progress | None) -> list[float]:
        if self._classifier is None:
            return [entailment(one.question, one.reference, one.answer) for one in asked]
        said = [place for place, one in enumerate(asked) if one.answer.strip()]
        pairs = [(f"{asked[i].question} {asked[i].answer}", f"{asked[i].question} {asked[i].reference}") for i in said]
        logits = self._classifier.logits(pairs, progress=progress).astype(np.float64)
        weights = np.exp(logits - logits.max(-1, keepdims=True, initial=-np.inf))
        degrees = [0.0] * len(asked)
        for place, degree in zip(said, weights[:, self._place] / weights.sum(-1), strict=True):
            degrees[place] = float(degree)
        return degrees

    @property
    def sentence(self) -> str:
        if self._classifier is None:
            return "how far they entail the right ones, word by word"
        return f"how far they entail the right ones, by the model {Path(self._classifier.source).name}"

    @property
    def settings(self) -> dict[str, Any]:
        """The thresholds; of a model where it is and the SHA-256 of its weights, or its revision on the hub."""
        settings: dict[str, Any] = {"whole": ENTAILED, "part": PARTLY_ENTAILED}
        if self._classifier is None:
            return settings
        return {**settings, "model": self._classifier.source, "fingerprint": self._classifier.fingerprint()}


def _entailment_label(classifier: PairClassifier) -> int:
    found = [place for place, name in classifier.labels.items() if _ENTAILS.search(name) and not _DENIED.search(name)]
    if len(found) != 1:
        names = ", ".join(classifier.labels.values())
        raise ConfigError(
            f"suite.entailment_model={classifier.source}: which of its labels ({names}) means entailment is not clear. "
            "Pass a model whose configuration names its labels (id2label), one of them entailment."
        )
    return found[0]


JUDGE = Entailment
