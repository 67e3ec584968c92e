"""Records to rows: which columns hold the question, the answer, the messages or the text.

Recognised by column name, letter case aside: question + answer (with TOFU's paraphrased_question,
paraphrased_answer and perturbed_answer, or with option1.. or choices), prompt + completion, instruction
(+ input) + output, messages or conversations, prompt + responses marked safe or unsafe (see `responses`),
TruthfulQA's Question + Best Answer, text; in each of them group, the kind a row is of. Other columns are passed over;
what is not recognised can be mapped by role.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from expunge.errors import RequestError
from expunge.requests import responses as marked
from expunge.requests.columns import PAIR, SINGLE, Columns, columns_of, plain_name
from expunge.requests.files import Source
from expunge.requests.formats import Record
from expunge.requests.responses import Responses
from expunge.requests.rows import Row

SHOWN = 20  # problems listed before the rest is only counted

_JOINED = {"incorrect_answers"}  # TruthfulQA's CSV puts several answers in one cell, parted by semicolons

_SPEAKERS = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}


def rows_of(
    source: Source,
    mapping: tuple[tuple[str, str], ...] = (),
    used: set[str] | None = None,
    responses: Responses | None = None,
) -> list[Row]:
    """The rows of ``source``, or one `RequestError` that lists its problems (the first 20 and how many more).

    ``mapping`` comes from `check_columns`; it holds for records that have at least one of its columns, the
    others are recognised by name. The mapped columns that were found are added to ``used``. ``responses`` says which
    responses of a safety set are meant; where they are marked and it is None, or none is left, that is an error too.
    """
    rows: list[Row] = []
    problems: list[tuple[str, str]] = []
    marks: set[str] = set()
    for record in source.records:
        found = [record.problem] if record.problem else []
        if not found:
            new, found = _rows(record, mapping, used, responses, marks)
            rows += new
        problems += [(record.source, text) for text in found]
    if problems:
        raise RequestError(_report(source, problems))
    if source.records and not rows and responses is not None:  # every other record gives a row
        raise marked.none_left(source.where, len(source.records), responses, marks)
    return rows


def _report(source: Source, problems: list[tuple[str, str]]) -> str:
    """All problems as one text; rows with the same wrong columns are named once."""
    listed: dict[object, list[str]] = {}
    for index, (where, text) in enumerate(problems):
        merged = "columns found:" in text or text == marked.UNSAID
        entry = listed.setdefault(text if merged else index, [f"{where}: {text}"])
        entry.append(where)
    bad = len({where for where, _ in problems})
    lines = [f"{source.where}: {bad} of {len(source.records)} rows cannot be used:"]
    for first, *places in list(listed.values())[:SHOWN]:
        same = len(places) - 1
        lines.append(f"  {first}" + (f" (the same in {same} more rows, last {places[-1]})" if same else ""))
    if len(listed) > SHOWN:
        lines.append(f"  .. and {len(listed) - SHOWN} more problems.")
    return "\n".join(lines)


def _rows(
    record: Record,
    mapping: tuple[tuple[str, str], ...],
    used: set[str] | None,
    responses: Responses | None,
    marks: set[str],
) -> tuple[list[Row], list[str]]:
    """The rows of a record (one, unless its responses are marked) and what is wrong with it (in which case they mean
    nothing). The columns that mark its responses are added to ``marks``."""
    value = record.value
    if isinstance(value, Row):
        parts = ("answer",) if value.kind == "document" else ("prompt", "answer")
        problems = [f"{part} is empty, expected text" for part in parts if not getattr(value, part).strip()]
        return [value if value.source else replace(value, source=record.source)], problems
    filled = frozenset(name for name, cell in value.items() if cell is not None and cell != "")
    columns = columns_of(tuple(value), filled, mapping)
    if used is not None:
        used |= columns.mapped
    if columns.problem:
        return [], [columns.problem]
    reader = _Reader(value, columns)
    if columns.form in (PAIR, SINGLE):
        if responses is None:
            return [], [marked.UNSAID]
        marks |= {columns.roles[mark] for mark in marked.MARKS.values() if mark in columns.form}
        wanted, wrong = marked.chosen(columns.form, reader.get, responses)
        reader.problems += wrong
        rows = [Row(reader.text("prompt"), reader.text(name)) for name in wanted]
    else:
        rows = [_BUILDERS[columns.form](reader)]
    if columns.form != ("text",):
        rows = [
            replace(
                row,
                paraphrased_prompt=reader.optional("paraphrased_question"),
                paraphrased_answer=reader.optional("paraphrased_answer"),
                wrong_answers=reader.texts("wrong_answers") or row.wrong_answers,
            )
            for row in rows
        ]
    group = reader.label("group")
    # what two responses have in common is named once
    return [replace(row, group=group, source=record.source) for row in rows], list(dict.fromkeys(reader.problems))


class _Reader:
    """Takes values out of one record by role and notes everything that is wrong with them."""

    def __init__(self, value: Mapping[str, Any], columns: Columns) -> None:
        self.value, self.columns = value, columns
        self.problems: list[str] = []

    def get(self, role: str) -> Any:
        return self.value.get(self.columns.roles[role]) if role in self.columns.roles else None

    def name(self, role: str) -> str:
        column = self.columns.roles.get(role, role)
        return role if plain_name(column) == role else f"{role} (column '{column}')"

    def check(self, what: str, value: object) -> str:
        """``value`` if it is text that says something, else a note and an empty text."""
        if not isinstance(value, str):
            self.problems.append(f"{what} is {_describe(value)}, expected text")
        elif not value.strip():
            self.problems.append(f"{what} is empty, expected text")
        elif not value.isascii() and (broken := re.search("[\ud800-\udfff]", value)):
            self.problems.append(f"{what} holds half of a surrogate pair (\\u{ord(broken[0]):04x}), expected text")
        else:
            return value
        return ""

    def text(self, role: str) -> str:
        return self.check(self.name(role), self.get(role))

    def optional(self, role: str) -> str | None:
        value = self.get(role)
        return None if value is None or value == "" else self.text(role)

    def label(self, role: str) -> str:
        """A name, which may be a whole number; empty where there is none."""
        value = self.get(role)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if value is None or (isinstance(value, str) and not value.strip()):
            return ""
        return self.text(role).strip()

    def listed(self, role: str) -> list[Any] | None:
        """A list, which CSV can only hold as JSON text; None where it is neither."""
        value = self.get(role)
        if isinstance(value, str) and value.lstrip().startswith("["):
            try:
                value = json.loads(value)
            except ValueError:
                self.problems.append(f"{self.name(role)} is {_describe(value)}, expected a list as JSON")
                return []
        return list(value) if isinstance(value, list | tuple) else None

    def texts(self, role: str) -> tuple[str, ...]:
        value = self.get(role)
        if value is None or value == "":
            return ()
        if isinstance(value, str) and plain_name(self.columns.roles[role]) in _JOINED:
            return tuple(part.strip() for part in value.split(";") if part.strip())
        items = self.listed(role)
        if items is None:
            return (self.text(role),)
        return tuple(self.check(f"{self.name(role)}, item {n}", item) for n, item in enumerate(items, 1))

    def turns(self, role: str) -> list[tuple[str, str]] | None:
        """Chat messages as (speaker, text), as role/content or from/value; None if there is no list."""
        messages = self.listed(role)
        if messages is None:
            return None
        turns, name = [], self.name(role)
        for number, message in enumerate(messages, 1):
            where = f"{name}, turn {number}"
            if not isinstance(message, Mapping):
                self.problems.append(f"{where} is {_describe(message)}, expected {{role, content}}")
                continue
            # A table gives every message all keys of all messages, so an absent one may also be null.
            named, said = ("role", "content") if message.get("role") is not None else ("from", "value")
            speaker = _SPEAKERS.get(str(message.get(named)), "")
            if not speaker:
                shown = _describe(message.get(named))
                self.problems.append(f"{where} has as role {shown}, expected system, user or assistant")
            if speaker == "system" and message.get(said) == "":
                continue  # a common way to write that there is no system turn
            turns.append((speaker, self.check(f"{where} {said}", message.get(said))))
        return turns


def _describe(value: object) -> str:
    kinds = {int: "the number", float: "the number", bool: "the value", list: "a list", dict: "an object"}
    if value is None:
        return "null"
    shown = repr(value)
    return f"{kinds.get(type(value), 'the value')} {shown if len(shown) <= 60 else shown[:60] + '..'}"


def _question(reader: _Reader) -> Row:
    choices = _choices(reader)
    if not choices:
        return Row(reader.text("question"), reader.text("answer"))
    question, answer = reader.text("question"), reader.get("answer")
    if answer is None or (isinstance(answer, str) and not answer.strip()):
        return Row(question, reader.text("answer"))
    right = _right_choice(answer, choices, reader.columns.options)
    if right is None:
        reader.problems.append(
            f"{reader.name('answer')} is {_describe(answer)}, which names not exactly one of the choices "
            f"({_describe(list(choices))}); expected the text of one, or wrong_answers in place of choices"
        )
        return Row(question, "")
    return Row(question, right, wrong_answers=tuple(choice for choice in choices.values() if choice != right))


def _choices(reader: _Reader) -> dict[int, str]:
    """The choices of a question by their numbers; none where the wrong answers are given outright."""
    if reader.get("wrong_answers") not in (None, "", []):
        return {}
    cells = {number: (name, reader.value.get(name)) for number, name in reader.columns.options.items()}
    if cells:
        return {n: reader.check(name, cell) for n, (name, cell) in cells.items() if cell not in (None, "")}
    return dict(enumerate(reader.texts("choices")))


def _right_choice(answer: object, choices: dict[int, str], options: Mapping[int, str]) -> str | None:
    """The choice that ``answer`` names; None if it names none, or may mean two.

    option1.. are named by their text; choice0.. by the number in the column name, else by text; a list of
    choices by text, by place (from 0) or by letter, where "2" among "1", "2", "3" may mean either.
    """
    by_number = not any(plain_name(name).startswith("option") for name in options.values())
    if by_number and isinstance(answer, int) and not isinstance(answer, bool):
        return choices.get(answer)
    if not isinstance(answer, str):
        return None
    text = answer.strip()
    number = int(text) if by_number and text.isdecimal() and len(text) < 4 else -1
    if options and number in choices:
        return choices[number]
    named = {choice for choice in choices.values() if choice.strip() == text}
    if not named and by_number and len(text) == 1 and text.isascii() and text.isupper():
        number = ord(text) - ord("A") + min(choices)
    named |= {choices[number]} if number in choices else set()
    return named.pop() if len(named) == 1 else None


def _completion(reader: _Reader) -> Row:
    if not isinstance(reader.get("prompt"), list | tuple):
        return Row(reader.text("prompt"), reader.text("completion"), kind="completion")
    if isinstance(reader.get("completion"), list | tuple):
        answer = reader.turns("completion") or []
    else:
        answer = [("assistant", reader.text("completion"))]
    return _chat(reader, (reader.turns("prompt") or []) + answer, "prompt + completion")


def _instruction(reader: _Reader) -> Row:
    instruction, extra = reader.text("instruction"), reader.optional("input")
    return Row(f"{instruction}\n\n{extra}" if extra else instruction, reader.text("output"))


def _messages(reader: _Reader) -> Row:
    turns = reader.turns("messages")
    if turns is None:
        reader.problems.append(
            f"{reader.name('messages')} is {_describe(reader.get('messages'))}, expected a list of {{role, content}}"
        )
        turns = []
    return _chat(reader, turns, reader.name("messages"))


def _chat(reader: _Reader, turns: list[tuple[str, str]], name: str) -> Row:
    """The last assistant turn is the answer, the user turn before it the prompt, the rest history."""
    if reader.problems:
        return Row("", "", kind="chat")
    speakers = [speaker for speaker, _ in turns]
    if speakers[-2:] != ["user", "assistant"]:
        shown = " -> ".join(speakers[-3:]) or "no turns"
        reader.problems.append(f"{name} ends in {shown}, expected a user turn and then the assistant's answer")
        return Row("", "", kind="chat")
    return Row(turns[-2][1], turns[-1][1], kind="chat", history=tuple(turns[:-2]))


def _document(reader: _Reader) -> Row:
    return Row("", reader.text("text"), kind="document")


_BUILDERS: dict[tuple[str, ...], Callable[[_Reader], Row]] = {
    ("question", "answer"): _question,
    ("prompt", "completion"): _completion,
    ("instruction", "output"): _instruction,
    ("messages",): _messages,
    ("text",): _document,
}
