"""Prompts with solved examples before the question, as text or as turns of a conversation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from expunge.requests.rows import Row

R = TypeVar("R", bound=Row)


def with_shots(
    row: R, shots: Sequence[tuple[str, str]], *, frame: Callable[[str], str], header: str = "", turns: bool = False
) -> R:
    """``row`` with ``shots``, pairs of a question and its answer, before its prompt.

    As text: the header, each question in its ``frame`` with its answer behind and a blank line after, then the row's
    own question in its frame; taken as it stands, whatever the template. As ``turns``: the header as a system message
    and each shot as a question and its answer, rendered by the template as a conversation is.
    """
    if turns:
        system = (("system", header),) if header else ()
        told = tuple(turn for question, answer in shots for turn in (("user", question), ("assistant", answer)))
        return replace(row, kind="chat" if system or told else "question", history=system + told)
    before = "".join(f"{frame(question)}{answer}\n\n" for question, answer in shots)
    opening = f"{header}\n\n" if header else ""
    return replace(row, kind="completion", prompt=f"{opening}{before}{frame(row.prompt)}")
