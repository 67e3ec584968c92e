"""What an answer judge is: of a question, its right answer and a model's answer it says what that gives away, whether
it reads well, and whether it declines. And finding one.

A file in ``evaluation/answer_judges/`` is one judge, and exposes its class as ``JUDGE``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from expunge.distributed import on_main
from expunge.errors import ConfigError
from expunge.evaluation.judge_kinds import Kinds
from expunge.evaluation.types import AnswerVerdict

if TYPE_CHECKING:
    from expunge.training.run import Progress

GROUP = "expunge.answer_judges"

OPTIONS = {
    "entailment_model": "suite.entailment_model",
    "model": "suite.answer_judge_model",
    "key_variable": "suite.answer_judge_key",
    "cache": "suite.answer_judge_cache",
    "per_minute": "suite.answer_judge_rate",
}
"""The fields of `Given` that a user sets, and how."""

JUDGED = ("leakage_judge", "answer_quality", "rejection", "hallucination_avoidance")
"""The metrics that take the first judge's word."""

ENTAILMENT = "entailment"
"""The label of the judge that metric ``leakage_entailment`` asks, wherever it stands among the judges."""


@dataclass(frozen=True)
class Asked:
    """One answer to judge: the question, the right answer (``reference``) and the model's."""

    question: str
    reference: str
    answer: str


@dataclass(frozen=True)
class Given:
    """What an answer judge can be made from.

    ``text`` is what the user wrote. ``entailment_model`` is a folder or hub id; ``model``, ``key_variable`` (the
    environment variable that holds the key), ``cache`` (a file) and ``per_minute`` (requests at most) belong to
    endpoints.
    """

    text: str
    entailment_model: str | Path | None = None
    model: str | None = None
    key_variable: str | None = None
    cache: str | Path | None = None
    per_minute: float | None = None


class AnswerJudge(ABC):
    """Gives an :class:`AnswerVerdict` on every answer. ``version`` changes when the same answers would be judged
    otherwise."""

    name: ClassVar[str]
    version: ClassVar[int]
    form: ClassVar[str]
    """What the user writes to get it, for messages: its name, or what is passed in its place."""
    takes: ClassVar[tuple[str, ...]] = tuple(OPTIONS)
    """The options among `OPTIONS` that mean something to it; any other is refused."""

    @classmethod
    @abstractmethod
    def is_meant(cls, text: str) -> bool:
        """Whether ``text`` asks for this judge."""

    @classmethod
    @abstractmethod
    def make(cls, given: Given) -> AnswerJudge:
        """The judge, ready to work; a `ConfigError` where something that it needs was not given."""

    def check(self) -> None:  # noqa: B027 - most have nothing to check
        """Raise now what the first answer would raise: called before anything is trained or scored."""

    @abstractmethod
    def verdicts(self, asked: Sequence[Asked], *, progress: Progress | None = None) -> list[AnswerVerdict]:
        """One verdict for each of ``asked``, in their order."""

    @property
    def label(self) -> str:
        """What it is called beside the suite's other judges."""
        return self.name

    @property
    @abstractmethod
    def sentence(self) -> str:
        """Whose word it is, in plain words, as the end of "Answers were judged by .."."""

    @property
    def settings(self) -> dict[str, Any]:
        """What decides its verdicts, ready for JSON."""
        return {}

    def describe(self) -> dict[str, Any]:
        """``label``, ``name``, ``version``, ``settings`` and ``judged_by`` (its sentence), as ``scores.json`` records
        them."""
        return {
            "label": self.label,
            "name": self.name,
            "version": self.version,
            "settings": self.settings,
            "judged_by": self.sentence,
        }


_KINDS = Kinds(
    "expunge.evaluation.answer_judges",
    GROUP,
    AnswerJudge,  # type: ignore[type-abstract]
    "suite.answer_judge",
    OPTIONS,
)


def answer_judge_names() -> list[str]:
    """Every answer judge there is, sorted, without importing one."""
    return _KINDS.names()


def make_answer_judges(
    answer_judge: str | Sequence[str] | None,
    *,
    entailment_model: str | Path | None = None,
    answer_judge_model: str | None = None,
    answer_judge_key: str | None = None,
    answer_judge_cache: str | Path | None = None,
    answer_judge_rate: float | None = None,
) -> tuple[AnswerJudge, ...]:
    """The judges that a suite's options ask for, in their order; none for None.

    Raises:
        UnknownNameError: there is no such judge.
        ConfigError: an option that a judge lacks or that applies to none of them, or a judge that is named twice.
    """
    texts = [] if answer_judge is None else [answer_judge] if isinstance(answer_judge, str) else list(answer_judge)
    given = Given("", entailment_model, answer_judge_model, answer_judge_key, answer_judge_cache, answer_judge_rate)
    kinds = [_KINDS.meant(text) for text in texts]
    _KINDS.check_options(given, kinds, texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]")
    judges = tuple(kind.make(replace(given, text=text)) for kind, text in zip(kinds, texts, strict=True))
    twice = [label for label, count in Counter(judge.label for judge in judges).items() if count > 1]
    if twice:
        raise ConfigError(
            f"suite.answer_judge=[{', '.join(texts)}]: {', '.join(twice)} is named twice. Name every judge once; the "
            "models of endpoints go by their names."
        )
    return judges


def judged_metrics(judges: Sequence[AnswerJudge]) -> tuple[str, ...]:
    """The metrics that ``judges`` give a set of questions; none without a judge."""
    entailed = any(judge.label == ENTAILMENT for judge in judges)
    return (*JUDGED, "leakage_entailment") if entailed else JUDGED if judges else ()


def verdicts_on(
    judges: Sequence[AnswerJudge], asked: Sequence[Asked], progress: Progress | None = None
) -> list[dict[str, AnswerVerdict]]:
    """For each of ``asked`` what every judge says, by its label; asked once for all processes."""
    said = on_main(lambda: {judge.label: judge.verdicts(asked, progress=progress) for judge in judges})
    return [{label: verdicts[place] for label, verdicts in said.items()} for place in range(len(asked))]


def judged_by(judges: Sequence[dict[str, Any]]) -> str:
    """The sentence that says whose word the scores of answers are, from the judges' descriptions."""
    first, *others = judges
    said = f"Answers were judged by {first['judged_by']} (judge {first['label']}, version {first['version']})."
    compared = ", ".join(str(one["label"]) for one in others)
    return f"{said} Compared with it: {compared}." if others else said
