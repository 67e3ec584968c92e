"""What models give away when forget rows are asked in one way or another: leakage, ROUGE and the right answer's
probability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from expunge.audits.interface import Audited, ModelName
from expunge.data.batches import pad_id
from expunge.data.encode import encode_all
from expunge.data.template import Template
from expunge.evaluation.generation import greedy_answers
from expunge.evaluation.metrics.leakage import leaked_share
from expunge.evaluation.metrics.probability import probability
from expunge.evaluation.metrics.rouge import rouge_l_recall
from expunge.evaluation.outputs import score_examples
from expunge.models.limits import max_tokens
from expunge.requests.rows import Row
from expunge.training.run import Progress, named, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel

METRICS = ("leakage", "rouge", "probability")
PLAIN = "plain"


@dataclass(frozen=True)
class Way:
    """A way of asking rows: ``asked`` are the same rows in its words, ``texts`` renders them."""

    name: str
    asked: tuple[Row, ...]
    texts: Template


@dataclass(frozen=True)
class Answers:
    """What one model answers to n rows, each asked in V ways.

    leakage, rouge, probability: [V, n] float64, from 0 to 1, NaN where a row does not define one; ``ways`` the V names,
    ``prompts`` and ``answers`` V texts for each of n rows.
    """

    ways: tuple[str, ...]
    leakage: np.ndarray
    rouge: np.ndarray
    probability: np.ndarray
    prompts: tuple[tuple[str, ...], ...]
    answers: tuple[tuple[str, ...], ...]

    def mean(self, metric: str) -> np.ndarray:
        """[n] the mean over ways."""
        found: np.ndarray = getattr(self, metric).mean(0)
        return found

    def best(self, metric: str) -> np.ndarray:
        """[n] what the way gets that gets most from the row."""
        found: np.ndarray = getattr(self, metric).max(0)
        return found


def answers_of(way: Way, rows: Sequence[Row], texts: Sequence[str], probabilities: Sequence[float]) -> Answers:
    """The answers to one way of asking, scored against what ``rows`` expect. Words of the question, as the row has it
    and as it was asked, count as given and not as leaked."""
    pairs = list(zip(rows, way.asked, texts, strict=True))
    leaked = [leaked_share(f"{row.prompt} {one.prompt}", row.answer, text) for row, one, text in pairs]
    return Answers(
        (way.name,),
        np.array([leaked]),
        np.array([[rouge_l_recall(row.answer, text) for row, _, text in pairs]]),
        np.array([probabilities]),
        (tuple(one.prompt for one in way.asked),),
        (tuple(texts),),
    )


def joined(parts: Sequence[Answers]) -> Answers:
    """The answers to several ways as those to all of them."""
    return Answers(
        tuple(way for part in parts for way in part.ways),
        np.concatenate([part.leakage for part in parts]),
        np.concatenate([part.rouge for part in parts]),
        np.concatenate([part.probability for part in parts]),
        tuple(one for part in parts for one in part.prompts),
        tuple(one for part in parts for one in part.answers),
    )


def ask(
    model: PreTrainedModel,
    audited: Audited,
    rows: Sequence[Row],
    ways: Sequence[Way],
    *,
    progress: Progress = silent,
) -> Answers:
    """Greedy answers of ``model`` to ``rows`` in every way, and the probability of the expected ones."""
    length = max_tokens(model, audited.max_length)
    found = []
    for way in ways:  # one by one: a way that is long does not pad the others
        examples = encode_all(audited.tokenizer, way.texts, way.asked, max_length=length)
        scores = score_examples(model, examples, pad_id(audited.tokenizer), progress=progress)
        answers = greedy_answers(
            model,
            audited.tokenizer,
            way.texts,
            way.asked,
            max_length=length,
            max_new_tokens=audited.max_new_tokens,
            progress=progress,
        )
        found.append(answers_of(way, rows, [one.text for one in answers], [probability(one) for one in scores]))
    return joined(found)


def plain_answers(audited: Audited, rows: Sequence[Row], *, progress: Progress = silent) -> dict[ModelName, Answers]:
    """What every model answers to the rows as they are; audits of the same rows that leave the
    same room for answers share them."""
    found: dict[ModelName, Answers] = {}
    for name in audited.models:
        key = (__name__, name, audited.template, audited.max_length, audited.max_new_tokens, tuple(rows))
        if key not in audited.memory:
            with audited.model(name) as model:
                way = Way(PLAIN, tuple(rows), audited.texts)
                shown = named(f"{name}, plain questions", progress)
                audited.memory[key] = ask(model, audited, rows, [way], progress=shown)
        found[name] = audited.memory[key]
    return found


def reworded(rows: Sequence[Row], prompts: Sequence[str]) -> tuple[Row, ...]:
    """``rows`` with other prompts and the same answers."""
    return tuple(replace(row, prompt=prompt) for row, prompt in zip(rows, prompts, strict=True))
