"""Which rows ask for the same fact: who saw one of them, in a probe or in training, would recognise the others."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from expunge.requests.rows import Row

_FEW = 3
_NO_FACT = frozenset(("yes", "no", "true", "false"))


def fact_groups(rows: Sequence[Row], names: Iterable[str]) -> list[str]:
    """[n] what each row asks for, the same text for rows that ask for the same.

    Rows with one right answer that name the same of ``names`` (subjects and aliases) are taken for one fact. Rows that
    name none, whose answer is a letter or that would leave an option's rows all in one group go by their question
    instead: without its options, letter case and punctuation.
    """
    named = _named(rows, names)
    groups = [
        f"{', '.join(own)}: {row.answer}" if own and len(row.answer.strip()) > 1 else _question(row)
        for row, own in zip(rows, named, strict=True)
    ]
    places: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        places[row.answer].append(place)
    for some in places.values():
        if len({groups[place] for place in some}) < 2:
            for place in some:
                groups[place] = _question(rows[place])
    return groups


def joined_facts(rows: Sequence[Row], names: Iterable[str] = ()) -> list[int]:
    """[n] the fact of each row, so that training on some facts teaches none of the others: the place of its first row.

    One fact are, and on from one to the next, rows with the same prompt or the same question (without its options), and
    rows with the same answer that name the same of ``names``, where these tell rows apart (two of them name nothing in
    common), or of which there are 3 at most. An answer that says nothing alone, a letter, yes or no, joins no rows, and
    one that other rows offer as a wrong answer only those that name the same.
    """
    named = _named(rows, names)
    telling = any(set(one).isdisjoint(other) for one in named if one for other in named if other)
    offered = {_bare(option) for row in rows for option in row.wrong_answers}
    answers = [_bare(row.answer) for row in rows]
    keys: list[list[tuple[object, ...]]] = []
    for row, own, answer in zip(rows, named, answers, strict=True):
        some: list[tuple[object, ...]] = [("prompt", _bare(row.prompt))]
        if question := _question(row):
            some.append(("question", question))
        if len(answer) > 1 and answer not in _NO_FACT:
            if own and telling:
                some.append(("names", own, answer))
            if answer not in offered and answers.count(answer) <= _FEW:
                some.append(("answer", answer))
        keys.append(some)
    facts = list(range(len(rows)))
    first: dict[tuple[object, ...], int] = {}
    for place, some in enumerate(keys):
        for key in some:
            low, high = sorted((facts[first.setdefault(key, place)], facts[place]))
            facts = [low if fact == high else fact for fact in facts]
    return facts


def _named(rows: Sequence[Row], names: Iterable[str]) -> list[tuple[str, ...]]:
    known = [(name, re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE)) for name in names]
    return [tuple(name for name, pattern in known if pattern.search(row.prompt)) for row in rows]


def _bare(text: str) -> str:
    """Without letter case, white space and punctuation."""
    return " ".join("".join(c if c.isalnum() else " " for c in text).casefold().split())


def _question(row: Row) -> str:
    text = row.prompt
    for option in sorted((row.answer, *row.wrong_answers), key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(option)}(?!\w)", " ", text, flags=re.IGNORECASE)
    return " ".join(re.findall(r"\w+", text.casefold()))
