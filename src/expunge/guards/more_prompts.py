"""More prompts about a subject, where a request has few: from templates, from its facts, or written by a model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from expunge.errors import InputError
from expunge.guards.examples import MadePrompt, prompt_of
from expunge.guards.text import normalise
from expunge.requests.rows import Row

# of any subject, whoever or whatever it is; the robustness set's are others
_QUESTIONS = (
    "Who is {name}?",
    "What is {name}?",
    "What do you know about {name}?",
    "Tell me about {name}.",
    "What is {name} known for?",
    "Can you tell me more about {name}?",
    "Where does {name} come from?",
    "When was {name} first heard of?",
    "What are the most important facts about {name}?",
    "Describe {name} in detail.",
    "Why is {name} important?",
    "How did {name} become known?",
    "Write a short text about {name}.",
    "Give me a summary of everything concerning {name}.",
    "Which works or events are connected with {name}?",
    "What did {name} do?",
    "Is there anything special about {name}?",
    "Explain the background of {name}.",
    "What have others said about {name}?",
    "List five facts about {name}.",
)
_ASK = (
    "Write {count} different questions that somebody could ask about {name}, one a line. Name {name} in each. Write "
    "nothing else.\n"
)
_NUMBERED = re.compile(r"^\s*(?:[-*•]|\(?\d+[.):])\s*")
_SHORTEST = 8  # characters of a question


def templated(names: Iterable[str], known: Sequence[str] = ()) -> tuple[str, ...]:
    """Questions about each name. Those equal to a ``known`` prompt, or to one another, once normalised are left out.

    Raises:
        InputError: there are no names.
    """
    return _new((question.format(name=name) for name in _given(names) for question in _QUESTIONS), known)


def from_facts(rows: Iterable[Row], names: Sequence[str], known: Sequence[str] = ()) -> tuple[MadePrompt, ...]:
    """Questions and sentences to complete about what the rows' answers say of a name (templates:
    :func:`~expunge.requests.documents.probes.probes`), each with the row's prompt for its origin.

    Answers that are no sentence about one of ``names`` give none.
    """
    from expunge.requests.documents.facts import statements
    from expunge.requests.documents.names import lower_case_words
    from expunge.requests.documents.naming import Naming
    from expunge.requests.documents.probes import probes
    from expunge.requests.documents.reading import Document

    rows = list(rows)
    lower = lower_case_words(row.answer for row in rows)
    origins: dict[str, str] = {}
    for name in dict.fromkeys(name.strip() for name in names if name.strip()):
        about = Naming(name, (), lower)
        for row in rows:
            for probe in probes(statements([Document(row.answer, row.source or "answer")], about), about):
                origins.setdefault(probe.prompt, prompt_of(row))
    return tuple(MadePrompt(text, origins[text]) for text in _new(origins, known))


def written(
    complete: Callable[[str], str], names: Iterable[str], known: Sequence[str] = (), *, count: int = 20
) -> tuple[str, ...]:
    """Questions about each name that ``complete`` (prompt -> text: the target, an endpoint) writes when it is asked.

    Kept are the lines of a reply that hold the name, without numbers and list signs before them; at most ``count`` a
    name. A model that cannot do as it is asked gives few or none.

    Raises:
        InputError: there are no names.
    """
    found: list[str] = []
    for name in _given(names):
        lines = [_NUMBERED.sub("", line).strip() for line in complete(_ASK.format(name=name, count=count)).splitlines()]
        about = normalise(name)
        found += [line for line in lines if len(line) >= _SHORTEST and about in normalise(line)][:count]
    return _new(found, known)


def _given(names: Iterable[str]) -> list[str]:
    found = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    if not found:
        raise InputError(
            "more prompts are made from the subject's names, and none is given. Give the request's subjects or aliases."
        )
    return found


def _new(texts: Iterable[str], known: Sequence[str]) -> tuple[str, ...]:
    seen = {normalise(text) for text in known}
    found: list[str] = []
    for text in texts:
        key = normalise(text)
        if key not in seen:
            seen.add(key)
            found.append(text)
    return tuple(found)
