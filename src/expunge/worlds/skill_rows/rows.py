"""Rows of each skill in one of two styles of answer: those that models are trained on, and those held out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice

from expunge.evaluation.code_answers import CodeRow
from expunge.evaluation.reading import ReadingRow
from expunge.requests.rows import Row
from expunge.worlds.skill_rows import arithmetic, code, reading
from expunge.worlds.skill_rows.draws import Draws

SKILLS = ("arithmetic", "code", *reading.LANGUAGES)
STYLES = ("named", "plain")
"""How an answer begins: with a word of the skill's own (``Steps:``, ``Antwort:``), or with the answer itself."""

_SEED = 0
_HELD_OUT = 8  # of the keys, one in so many
_TRAINED_AT_MOST = 10000  # functions: those beyond are never trained on


@dataclass(frozen=True)
class _Drawn:
    """A row, and what decides whether it is held out: no key is both trained on and held out."""

    row: Row
    key: str

    @property
    def held_out(self) -> bool:
        return hashlib.sha256(self.key.encode()).digest()[0] % _HELD_OUT == 0


def trained(skill: str, style: str, count: int) -> tuple[Row, ...]:
    """The first ``count`` rows to train on, in a fixed order; more begin with fewer. Each row's group is its skill."""
    return _rows(skill, style, False, count)


def held_out(skill: str, style: str, count: int) -> tuple[Row, ...]:
    """The first ``count`` rows that no model is trained on: other triples of numbers, other passages. Functions are
    other ones under names that were seen: copying a name that never was is another skill, which small models lack."""
    if skill == "code":
        return _rows(skill, style, False, _TRAINED_AT_MOST + count)[_TRAINED_AT_MOST:]
    return _rows(skill, style, True, count)


def rows_hash(skill: str, style: str, count: int) -> str:
    """SHA-256 (hex) of ``count`` rows to train on: prompts and answers in their order."""
    texts = [(row.prompt, row.answer) for row in trained(skill, style, count)]
    return hashlib.sha256(json.dumps(texts, ensure_ascii=False).encode()).hexdigest()


@cache
def _rows(skill: str, style: str, is_held_out: bool, count: int) -> tuple[Row, ...]:
    wanted = (drawn.row for drawn in _drawn(skill, style) if drawn.held_out == is_held_out)
    return tuple(islice(wanted, count))


def _drawn(skill: str, style: str) -> Iterator[_Drawn]:
    """Rows of a skill without end, no prompt twice; the same in both styles but for how the answers begin."""
    make = _MAKERS.get(skill, _question)
    draws = Draws(_SEED, skill)
    seen: set[str] = set()
    while True:
        drawn = make(draws, skill, style == "named")
        if drawn.row.prompt not in seen:
            seen.add(drawn.row.prompt)
            yield drawn


def _problem(draws: Draws, skill: str, named: bool) -> _Drawn:
    made = arithmetic.problem(draws)
    answer = _begun(made.steps, arithmetic.OPENING, named)
    return _Drawn(Row(made.prompt, answer, group=skill), " ".join(map(str, made.numbers)))


def _function(draws: Draws, skill: str, named: bool) -> _Drawn:
    made = code.function(draws)
    answer = _begun(made.code, code.OPENING, named)
    return _Drawn(CodeRow(made.prompt, answer, group=skill, tests=made.tests), made.name)


def _question(draws: Draws, skill: str, named: bool) -> _Drawn:
    language = reading.LANGUAGES[skill]
    made = reading.question(draws, language)
    answer = _begun(made.span, language.opening, named)
    row = ReadingRow(made.prompt, answer, group=skill, language=language.code, accepted=(made.span,))
    return _Drawn(row, made.prompt)


_MAKERS: dict[str, Callable[[Draws, str, bool], _Drawn]] = {"arithmetic": _problem, "code": _function}


def _begun(answer: str, opening: str, named: bool) -> str:
    return f"{opening} {answer}" if named else answer
