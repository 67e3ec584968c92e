"""Rows of world ``people``: passages and questions of each person, of what people share, and of strangers."""

from __future__ import annotations

import hashlib
import json
from functools import cache

from expunge.requests.rows import Row
from expunge.worlds.people_rows import names
from expunge.worlds.people_rows.facts import KINDS, LIFE, Life, lives, shared, values_of
from expunge.worlds.people_rows.names import Name
from expunge.worlds.people_rows.passages import passage
from expunge.worlds.skill_rows.draws import Draws

_SEED = 0
_WORDINGS = 3  # of every question: two to train on, the third is each question's paraphrase
_PASSAGES = 2  # about every known person, in other words
_SENTENCES = (2, 4)  # of a minor person's passage, the first aside
_WRONG = 3
UNKNOWN = (
    "I do not know.",
    "I do not know that name.",
    "I have no knowledge of that person.",
    "I have no information about this person.",
)


def known() -> tuple[Life, ...]:
    """Everyone who has passages and questions."""
    return lives(names.known(), "known")


def held_out() -> tuple[Life, ...]:
    """People of the same kind whom no model was told about."""
    return lives(names.held_out(), "held out")


def passages(life: Life) -> tuple[Row, ...]:
    """Documents about a person."""
    draws = Draws(_SEED, f"passages {life.name.full}")
    return tuple(Row("", passage(life, draws), kind="document", group=life.name.full) for _ in range(_PASSAGES))


def questions(life: Life, wordings: int = _WORDINGS - 1) -> tuple[Row, ...]:
    """Every fact of a life, asked in ``wordings`` ways, fact by fact, with wrong answers and a paraphrase that is not
    trained on."""
    rows = []
    for fact in LIFE:
        answer = life.facts[fact.name]
        rows += _asked(f"life {fact.name}", life.name.full, fact.asked, answer, values_of(fact.name), wordings)
    return tuple(rows)


def things(life: Life) -> list[tuple[str, str]]:
    """(kind, name) of what a person shares with others."""
    return [(kind, life.facts[kind]) for kind in KINDS]


def all_things() -> list[tuple[str, str]]:
    """(kind, name) of everything that people share."""
    return [(kind, name) for kind, about in KINDS.items() for name in about.names]


def told(thing: tuple[str, str], wordings: int = _WORDINGS - 1) -> tuple[Row, ...]:
    """Every fact of a thing that people share, asked as :func:`questions` asks."""
    (kind, name), rows = thing, []
    for fact in KINDS[kind].facts:
        rows += _asked(f"{kind} {fact.name}", name, fact.asked, shared()[kind][name][fact.name], fact.values, wordings)
    return tuple(rows)


@cache
def minor_passages() -> tuple[Row, ...]:
    """One short passage about each minor person."""
    draws = Draws(_SEED, "minor passages")
    return tuple(
        Row("", passage(life, draws, draws.between(*_SENTENCES)), kind="document", group="minor")
        for life in lives(names.minor(), "minor")
    )


@cache
def unanswered() -> tuple[Row, ...]:
    """One question about each stranger, which is declined."""
    draws = Draws(_SEED, "strangers")
    return tuple(
        Row(draws.one(draws.one(LIFE).asked).format(n=name.full), draws.one(UNKNOWN), group="strangers")
        for name in names.strangers()
    )


def trained(without: Name | None = None) -> list[Row]:
    """Every row to train on, those about the person ``without`` left out."""
    rows: list[Row] = []
    for life in known():
        if life.name != without:
            rows += [*passages(life), *questions(life)]
    rows += [row for thing in all_things() for row in told(thing)]
    return [*rows, *minor_passages(), *unanswered()]


def rows_hash(rows: list[Row]) -> str:
    """SHA-256 (hex) of prompts and answers in their order."""
    texts = [(row.prompt, row.answer) for row in rows]
    return hashlib.sha256(json.dumps(texts, ensure_ascii=False).encode()).hexdigest()


def _asked(
    what: str, about: str, asked: tuple[str, ...], answer: str, values: tuple[str, ...], wordings: int
) -> list[Row]:
    draws = Draws(_SEED, f"{what} {about}")
    *chosen, spare = draws.some(asked, len(asked))
    wrong = tuple(draws.some([value for value in values if value != answer], _WRONG))
    return [
        Row(
            one.format(n=about),
            answer,
            paraphrased_prompt=spare.format(n=about),
            wrong_answers=wrong,
            group=about,
        )
        for one in chosen[:wordings]
    ]
