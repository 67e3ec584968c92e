"""What a judge is: it says of a prompt and an answer whether the answer is unsafe. And finding one.

A file in ``evaluation/judges/`` is one judge, and exposes its class as ``JUDGE``. Which one is meant follows from what
the user wrote: a name, a folder, a URL.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from expunge.distributed import on_main
from expunge.evaluation.judge_kinds import Kinds

if TYPE_CHECKING:
    from expunge.evaluation.suite import Suite
    from expunge.requests.rows import Row
    from expunge.training.run import Progress

GROUP = "expunge.judges"
OPTIONS = {
    "markers": "suite.markers",
    "label": "suite.judge_label",
    "model": "suite.judge_model",
    "key_variable": "suite.judge_key",
    "cache": "suite.judge_cache",
}
"""The fields of `Given` that a user sets, and how."""


@dataclass(frozen=True)
class Given:
    """What a judge can be made from.

    ``text`` is what the user wrote. ``markers`` are words that only unsafe answers hold. ``unsafe`` and ``safe`` are
    rows with such answers, to learn from. ``label`` is a classifier's label for unsafe; ``model``, ``key_variable``
    (the environment variable that holds the key) and ``cache`` (a file) belong to an endpoint.
    """

    text: str
    markers: tuple[str, ...] = ()
    unsafe: tuple[Row, ...] = ()
    safe: tuple[Row, ...] = ()
    label: str | None = None
    model: str | None = None
    key_variable: str | None = None
    cache: str | Path | None = None


class Judge(ABC):
    """Says which answers are unsafe. ``version`` changes when the same answers would be judged otherwise."""

    name: ClassVar[str]
    version: ClassVar[int]
    form: ClassVar[str]
    """What the user writes to get it, for messages: its name, or what is passed in its place."""
    takes: ClassVar[tuple[str, ...]] = tuple(OPTIONS)
    """The options among `OPTIONS` that mean something to it; any other is refused."""

    judges_normal: bool = True
    """Whether its verdicts mean anything for answers to normal prompts."""

    @classmethod
    @abstractmethod
    def is_meant(cls, text: str) -> bool:
        """Whether ``text`` asks for this judge."""

    @classmethod
    @abstractmethod
    def make(cls, given: Given) -> Judge:
        """The judge, ready to work; a `ConfigError` where something that it needs was not given."""

    def check(self) -> None:  # noqa: B027 - most have nothing to check
        """Raise now what the first answer would raise, such as that an endpoint cannot be reached: called before
        anything is trained or scored."""

    @abstractmethod
    def unsafe(self, asked: Sequence[tuple[str, str]], *, progress: Progress | None = None) -> list[bool]:
        """For each (prompt, answer) whether the answer is unsafe, in their order."""

    @property
    @abstractmethod
    def sentence(self) -> str:
        """What it calls unsafe, in plain words, as the end of "Unsafe is .."."""

    @property
    def settings(self) -> dict[str, Any]:
        """What decides its verdicts, ready for JSON."""
        return {}

    def describe(self) -> dict[str, Any]:
        """``name``, ``version``, ``settings`` and ``unsafe`` (its sentence), as ``scores.json`` records them."""
        return {"name": self.name, "version": self.version, "settings": self.settings, "unsafe": self.sentence}


_KINDS = Kinds("expunge.evaluation.judges", GROUP, Judge, "suite.judge", OPTIONS)  # type: ignore[type-abstract]


def judge_names() -> list[str]:
    """Every judge there is, sorted, without importing one."""
    return _KINDS.names()


def make_judge(given: Given) -> Judge:
    """The judge that ``given.text`` asks for.

    Raises:
        UnknownNameError: there is no such judge.
        ConfigError: an option that the judge lacks, or that does not apply to it.
    """
    kind = _KINDS.meant(given.text)
    _KINDS.check_options(given, [kind], given.text)
    return kind.make(given)


def check_judge(suite: Suite, metrics: Sequence[str] | None) -> None:
    """``check`` of every judge of the suite whose word one of the scores asked for (None: all) takes; in one process
    for all."""
    from expunge.evaluation.suite import select

    needs = frozenset().union(*select(suite, metrics).needs(suite).values())
    if suite.judge is not None and "judged" in needs:
        on_main(suite.judge.check)
    for judge in suite.answer_judges if "answer_judged" in needs else ():
        on_main(judge.check)
