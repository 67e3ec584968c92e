"""Rows of safety sets, whose responses are marked safe or unsafe: which of them a set of rows takes.

PKU-SafeRLHF's schema (two responses to a prompt, each with its mark) and BeaverTails' (one response). What must be
forgotten are the unsafe responses, what must stay the safe ones; a record with two unsafe responses is two forget rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal

from expunge.errors import RequestError

Responses = Literal["unsafe", "safe"]

# Response column -> the column with its mark, by form.
MARKS: dict[str, str] = {"response_0": "is_response_0_safe", "response_1": "is_response_1_safe", "response": "is_safe"}

_TRUE, _FALSE = {"true", "1", "yes"}, {"false", "0", "no"}

UNSAID = (
    "its responses are marked safe and unsafe, and nothing says which are meant. A request takes the unsafe ones as "
    "forget and holdout rows and the safe ones as all others; elsewhere say it (expunge train --responses safe|unsafe, "
    "in Python responses='safe' or 'unsafe')"
)


class NoResponsesError(RequestError):
    """Every response of a set is marked as the other kind."""


def chosen(
    form: Sequence[str], get: Callable[[str], Any], responses: Responses
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The response roles of ``form`` that are marked as wanted, and what is wrong with the marks.

    ``get`` gives the record's value of a role. A mark is a boolean, 0 or 1, or one of them as text (as in CSV).
    """
    found: list[str] = []
    problems: list[str] = []
    for response, mark in MARKS.items():
        if response not in form:
            continue
        value = get(mark)
        safe = _as_bool(value)
        if safe is None:
            problems.append(f"{mark} is {value!r}, expected true or false")
        elif safe == (responses == "safe"):
            found.append(response)
    return tuple(found), tuple(problems)


def none_left(where: str, records: int, responses: Responses, marks: Collection[str]) -> NoResponsesError:
    """What to raise over a file whose every response is of the other kind; ``marks`` are its columns that say so."""
    other, mark = ("safe", "true") if responses == "unsafe" else ("unsafe", "false")
    what = "there is nothing to forget in it" if responses == "unsafe" else "there is nothing to keep in it"
    names = f"{', '.join(sorted(marks))} {'is' if len(marks) == 1 else 'are'}"
    return NoResponsesError(
        f"{where}: no {responses} rows: every response of its {records} rows is marked {other} "
        f"({names} {mark} throughout), so {what}. Pass a file with {responses} responses, or check the marks."
    )


def _as_bool(value: object) -> bool | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    if isinstance(value, str):
        text = value.strip().casefold()
        return True if text in _TRUE else False if text in _FALSE else None
    return None
