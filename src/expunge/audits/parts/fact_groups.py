"""Which rows ask for the same fact: a probe that saw one of them would recognise the others."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from expunge.requests.rows import Row


def fact_groups(rows: Sequence[Row], names: Iterable[str]) -> list[str]:
    """[n] what each row asks for, the same text for rows that ask for the same.

    Rows with one right answer that name the same of ``names`` (subjects and aliases) are taken for one fact. Rows that
    name none, whose answer is a letter or that would leave an option's rows all in one group go by their question
    instead: without its options, letter case and punctuation.
    """
    known = [(name, re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE)) for name in names]
    named = [tuple(name for name, pattern in known if pattern.search(row.prompt)) for row in rows]
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


def _question(row: Row) -> str:
    text = row.prompt
    for option in sorted((row.answer, *row.wrong_answers), key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(option)}(?!\w)", " ", text, flags=re.IGNORECASE)
    return " ".join(re.findall(r"\w+", text.casefold()))
