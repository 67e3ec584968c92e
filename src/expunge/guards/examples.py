"""Which prompts a classifier learns from: those to forget, and those of every kind that must be left alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from expunge.errors import ConfigError, InputError
from expunge.guards.text import normalise
from expunge.requests.request import Request
from expunge.requests.rows import Row

FORGET = "forget"
MADE = "made"
"""The kind of prompts that were made from the subject's names and facts, not asked for by the request's rows."""
NEIGHBOUR_WEIGHT = 3.0
_DOCUMENT = 400  # characters of a document that stand for a prompt


@dataclass(frozen=True)
class Examples:
    """n prompts; ``labels`` 1 (to be flagged) or 0, ``weights`` within a class, ``kinds`` for figures by kind.

    ``origins`` say what they were made from: a prompt and its paraphrase have the same, and are never on both sides of
    a split.
    """

    texts: tuple[str, ...]
    labels: tuple[int, ...]
    weights: tuple[float, ...]
    kinds: tuple[str, ...]
    origins: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def part(self, chosen: Sequence[int]) -> Examples:
        """Those at some places, in the order given."""
        lists = (self.texts, self.labels, self.weights, self.kinds, self.origins)
        return Examples(*(tuple(values[place] for place in chosen) for values in lists))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class MadePrompt:
    """A prompt, and the request's prompt from whose answer it was made; None: from a name alone."""

    text: str
    origin: str | None = None


def prompt_of(row: Row) -> str:
    """What a guard sees of a row: all turns up to the answer; of a document, which has no prompt, its beginning."""
    if row.kind == "document":
        return row.answer[:_DOCUMENT]
    return "\n".join([*(text for _, text in row.history), row.prompt])


def examples(
    request: Request,
    *,
    benign: Mapping[str, Sequence[Row]] | None = None,
    more: Sequence[str | MadePrompt] = (),
    neighbour_weight: float = NEIGHBOUR_WEIGHT,
) -> Examples:
    """The prompts of a request: forget rows and their paraphrases with label 1, retain rows and neighbours with 0.

    Prompts that are equal once normalised are taken once. A row's kind is its group where it has one, else the name of
    its set. Holdout and calibration rows are left out.

    Args:
        benign: other rows to leave alone, by kind.
        more: further prompts to flag (:mod:`~expunge.guards.more_prompts`), of the kind :data:`MADE`.
        neighbour_weight: how much a neighbour counts among the prompts to leave alone, the others counting 1.

    Raises:
        InputError: nothing to leave alone, or a prompt both to flag and to leave alone (all of them named).
        ConfigError: a weight that is not above 0.
    """
    if not 0 < neighbour_weight < math.inf:
        raise ConfigError(f"neighbour_weight={neighbour_weight} is not above 0. Give a number such as 3.")
    found: dict[str, tuple[str, int, float, str, str]] = {}
    both: list[str] = []

    def add(text: str, label: int, weight: float, kind: str, origin: str | None = None) -> None:
        known = found.setdefault(normalise(text), (text, label, weight, kind, normalise(origin or text)))
        if known[1] != label:
            both.append(f"{text[:60]!r} ({kind})")

    for row in request.forget:
        add(prompt_of(row), 1, 1.0, row.group or FORGET)
        if row.paraphrased_prompt:
            add(row.paraphrased_prompt, 1, 1.0, row.group or FORGET, prompt_of(row))
    for one in more:
        made = one if isinstance(one, MadePrompt) else MadePrompt(one)
        add(made.text, 1, 1.0, MADE, made.origin)
    # neighbours first: a row that is also among the retain rows keeps its weight
    sets: dict[str, Sequence[Row]] = {"neighbours": request.neighbours, "retain": request.retain, **(benign or {})}
    for name, rows in sets.items():
        for row in rows:
            add(prompt_of(row), 0, neighbour_weight if name == "neighbours" else 1.0, row.group or name)
    if both:
        raise InputError(
            f"{len(both)} prompts are to be flagged and to be left alone: {', '.join(both[:5])}"
            f"{' ..' if len(both) > 5 else ''}. Take them out of one side."
        )
    if not any(label == 0 for _, label, *_ in found.values()):
        raise InputError(
            "there are no prompts that a guard must leave alone: the request has no retain rows. Pass retain rows, of "
            "every kind that users ask about."
        )
    texts, labels, weights, kinds, origins = zip(*found.values(), strict=True)
    return Examples(texts, labels, weights, kinds, origins)
