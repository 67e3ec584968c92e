"""Rows of each subject: those that models are trained on, and those held out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from functools import cache
from itertools import count, islice

from expunge.requests.rows import Row
from expunge.worlds.exam_rows.subjects import SUBJECTS, Fact, facts
from expunge.worlds.skill_rows.draws import Draws

CHOICES = 4
"""Options of a question."""

_SEED = 0
_WORDINGS = 4
_WITH_OPTIONS = 2  # turns of three in which a fact is asked with options
_CHOOSE = "Choose: {}, {}, {} or {}."


def trained(subject: str, rows: int) -> tuple[Row, ...]:
    """The first ``rows`` to train on of a subject; more begin with fewer.

    Its facts come in turns, in one of three of their four wordings: in two turns of three with options to choose from,
    drawn and ordered anew, in the third without any. The answer is in words; ``wrong_answers`` are the other options,
    ``group`` is the subject.
    """
    return _first(_trained, subject, rows)


def held_out(subject: str, rows: int) -> tuple[Row, ...]:
    """The first ``rows`` that no model is trained on: every fact in turn with options, in the wording that no row to
    train on asks it in. The right option stands in every place equally often; in a fact's next turn in another one."""
    return _first(_held_out, subject, rows)


def held_out_open(subject: str, rows: int) -> tuple[Row, ...]:
    """The same questions without their options."""
    return _first(_held_out_open, subject, rows)


def rows_hash(subject: str, rows: int) -> str:
    """SHA-256 (hex) of the first ``rows`` to train on: prompts and answers in their order."""
    texts = [(row.prompt, row.answer) for row in trained(subject, rows)]
    return hashlib.sha256(json.dumps(texts, ensure_ascii=False).encode()).hexdigest()


@cache
def _first(make: Callable[[str], Iterator[Row]], subject: str, rows: int) -> tuple[Row, ...]:
    return tuple(islice(make(subject), rows))


def _trained(subject: str) -> Iterator[Row]:
    draws = Draws(_SEED, f"{subject} trained")
    every = list(enumerate(facts(subject)))
    for turn in count():
        for place, fact in draws.some(every, len(every)):
            wording = draws.one([one for one in range(_WORDINGS) if one != _kept_back(fact)])
            options, right = _options(fact, draws.between(0, CHOICES - 1), draws)
            # facts take their turns at different times, so that any stretch of rows holds both kinds
            yield (_choosing if (turn + place) % 3 < _WITH_OPTIONS else _open)(fact, wording, options, right)


def _held_out(subject: str) -> Iterator[Row]:
    return (_choosing(*drawn) for drawn in _drawn_held_out(subject))


def _held_out_open(subject: str) -> Iterator[Row]:
    return (_open(*drawn) for drawn in _drawn_held_out(subject))


def _drawn_held_out(subject: str) -> Iterator[tuple[Fact, int, list[str], int]]:
    draws = Draws(_SEED, f"{subject} held out")
    every = facts(subject)
    first = draws.some([place % CHOICES for place in range(len(every))], len(every))
    for turn in count():
        for place, fact in draws.some(list(enumerate(every)), len(every)):
            # another place in each turn, so that no question comes twice
            options, right = _options(fact, (first[place] + turn) % CHOICES, draws)
            yield fact, _kept_back(fact), options, right


def _kept_back(fact: Fact) -> int:
    """The wording in which this fact is asked in held-out rows alone. Other facts of its relation are asked so in
    training: words that were never seen would mean nothing."""
    return (fact.name + fact.relation) % _WORDINGS


def _options(fact: Fact, right: int, draws: Draws) -> tuple[list[str], int]:
    values = SUBJECTS[fact.subject].relations[fact.relation].values
    options = draws.some([value for value in values if value != fact.value], CHOICES - 1)
    options.insert(right, fact.value)
    return options, right


def _choosing(fact: Fact, wording: int, options: list[str], right: int) -> Row:
    return _row(fact, f"{_question(fact, wording)} {_CHOOSE.format(*options)}", options, right)


def _open(fact: Fact, wording: int, options: list[str], right: int) -> Row:
    return _row(fact, _question(fact, wording), options, right)


def _row(fact: Fact, prompt: str, options: list[str], right: int) -> Row:
    wrong = tuple(option for place, option in enumerate(options) if place != right)
    return Row(prompt, options[right], wrong_answers=wrong, group=fact.subject)


def _question(fact: Fact, wording: int) -> str:
    about = SUBJECTS[fact.subject]
    return about.relations[fact.relation].asked[wording].format(n=about.names[fact.name], k=about.kind)
