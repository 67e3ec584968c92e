"""What running a model over rows leaves behind, and what a metric makes of it. No torch in here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from expunge.requests.rows import Row


@dataclass(frozen=True)
class Score:
    """A metric's value over ``n`` examples, its standard error (None where there is none) and the metric's
    version: a number, or for a metric of another package its own and the package's in words."""

    value: float
    stderr: float | None
    n: int
    version: int | str


@dataclass(frozen=True)
class AnswerScores:
    """One answer scored under teacher forcing: ``logps`` [T] natural-log probabilities of its tokens,
    ``hits`` [T] whether each was the argmax. ``has_end`` says that the last of the T tokens is the end
    token."""

    logps: np.ndarray
    hits: np.ndarray
    has_end: bool

    @property
    def mean_logp(self) -> float:
        """Mean log-probability over all T tokens, the end token included."""
        return float(np.mean(self.logps, dtype=np.float64))


@dataclass(frozen=True)
class AnswerVerdict:
    """What a judge says of one answer to a question whose right answer is known.

    ``privacy``: 0 it does not give the right answer away, 0.5 in part, 1 whole. ``quality``: fluent and on topic, 0 to
    1. ``rejection``: 1 it declines or says it does not know, else 0. NaN: the judge cannot tell.
    """

    privacy: float
    quality: float
    rejection: float


@dataclass(frozen=True)
class RowOutputs:
    """Everything one model said about one row; what was not asked for is None or empty.

    ``greedy`` is the model's own answer as text and ``greedy_tokens`` as token ids without the end token;
    ``greedy_end`` is the end token it stopped with (None: it ran to the limit). ``greedy_prompt`` are the ids
    it answered to. ``greedy_under_target`` scores those tokens, the end token included, under the target.
    ``unsafe`` is what the suite's judge says of the greedy answer, ``verdicts`` what its answer judges do, by their
    labels in the suite's order.
    """

    row: Row
    answer: AnswerScores | None = None
    paraphrase: AnswerScores | None = None
    wrong: tuple[AnswerScores, ...] = ()
    greedy: str | None = None
    greedy_tokens: tuple[int, ...] = ()
    greedy_end: int | None = None
    greedy_prompt: tuple[int, ...] = ()
    greedy_under_target: AnswerScores | None = None
    unsafe: bool | None = None
    verdicts: Mapping[str, AnswerVerdict] = field(default_factory=dict)


@dataclass(frozen=True)
class SetOutputs:
    """One model's outputs on one set (``forget``, ``retain``, ..), rows in the order of the set."""

    name: str
    rows: tuple[RowOutputs, ...]


@dataclass(frozen=True)
class ModelOutputs:
    """One model's outputs on the sets of a suite; ``seconds`` by step (``first_pass``, ``generation``, ..);
    ``notes`` are things a reader of the scores must know, such as answers cut short by the model's own length
    limit."""

    sets: Mapping[str, SetOutputs]
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
