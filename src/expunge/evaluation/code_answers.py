"""Rows whose answer is a program: their tests, the code in a model's answer, running it, writing it for evalplus."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from expunge.distributed import on_main
from expunge.errors import ConfigError, OutputError
from expunge.evaluation.sandbox import Outcome, Program, Sandbox
from expunge.evaluation.types import ModelOutputs, RowOutputs
from expunge.files import write_text
from expunge.requests.rows import Row

if TYPE_CHECKING:
    from expunge.evaluation.suite import Suite

_BLOCK = re.compile(r"```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:\n?```|\Z)", re.DOTALL)
_STOPS = ("[DONE]", "\n```", "\n[BEGIN]", "\nYou are an expert", "\nQuestion:")
_PYTHON = ("", "python", "python3", "py")


@dataclass(frozen=True, slots=True)
class CodeRow(Row):
    """A row whose answer is Python code: the code, ``setup`` and each of ``tests`` are run in one namespace by
    ``sandbox`` (None: one with the usual limits). ``task`` is the task's number."""

    tests: tuple[str, ...] = ()
    setup: str = ""
    task: int = -1
    sandbox: Sandbox | None = field(default=None, compare=False)


def code_in(answer: str) -> str:
    """The code of an answer: its first Python block in backquotes, else everything up to the first sign that the model
    went on to something else; a leading ``[BEGIN]`` is taken off.

    A block that is never closed goes to the end of the answer. Backquotes without a language and without a second pair
    close what stands before them, where there is anything.
    """
    for found in _BLOCK.finditer(answer):
        language, block = found.groups()
        opens = language or found[0].endswith("```") or not answer[: found.start()].strip()
        if opens and language.lower() in _PYTHON:
            answer = block
            break
    text = answer.lstrip("\r\n").removeprefix("[BEGIN]").lstrip("\r\n")
    ends = [place for stop in _STOPS if (place := text.find(stop)) >= 0]
    return text[: min(ends, default=len(text))].rstrip() + "\n"


def run_answers(rows: Sequence[RowOutputs]) -> list[Outcome | None]:
    """How the greedy answer of each row did in its row's sandbox, in their order; None for a row without an answer or
    without tests. Run once for all processes."""
    return on_main(lambda: _run(rows))


def write_evalplus(rows: Sequence[RowOutputs], path: str | Path) -> None:
    """Write the answers as evalplus reads samples: JSON Lines of ``task_id`` (``Mbpp/2``) and ``solution``."""
    lines = [
        json.dumps({"task_id": f"Mbpp/{one.row.task}", "solution": code_in(one.greedy)})
        for one in rows
        if isinstance(one.row, CodeRow) and one.row.task >= 0 and one.greedy is not None
    ]
    write_text(Path(path), "".join(f"{line}\n" for line in lines))


def check_evalplus(suite: Suite, metrics: Sequence[str] | None, folder: Path, *, overwrite: bool) -> None:
    """Refuse to write the answers to ``suite`` for evalplus, before a model is run.

    Raises:
        ConfigError: no row of the suite is a numbered task whose answer is code, or none is answered for ``metrics``.
        OutputError: ``folder`` is a file, or has answers already and ``overwrite`` does not say to replace them.
    """
    from expunge.evaluation.score import MODELS
    from expunge.evaluation.suite import select

    coded = {
        name for name, rows in suite.sets.items() if any(isinstance(row, CodeRow) and row.task >= 0 for row in rows)
    }
    if not coded:
        raise ConfigError(
            f"evalplus reads answers to MBPP's tasks, and suite '{suite.name}' asks none. Use suite mbpp."
        )
    needs = select(suite, metrics).needs(suite)
    if not any("greedy" in needs.get(name, ()) for name in coded):
        raise ConfigError(f"evalplus reads answers, and none are given for {', '.join(metrics or ())}. Add pass_at_1.")
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file. Choose a folder for the answers.")
    there = [one.name for one in map(folder.joinpath, map(_evalplus_name, MODELS)) if one.exists()]
    if there and not overwrite:
        raise OutputError(f"{folder} has {', '.join(there)} already. Choose another folder, or pass --overwrite.")


def write_evalplus_folder(answers: Mapping[str, ModelOutputs | None], folder: Path) -> None:
    """Write every model's code answers to ``folder``, a file a model (``erased.jsonl``)."""
    for model, outputs in answers.items():
        if outputs is not None:
            rows = [row for part in outputs.sets.values() for row in part.rows]
            write_evalplus(rows, folder / _evalplus_name(model))


def _evalplus_name(model: str) -> str:
    return f"{model}.jsonl"


def _run(rows: Sequence[RowOutputs]) -> list[Outcome | None]:
    outcomes: list[Outcome | None] = [None] * len(rows)
    asked: dict[int, tuple[Sandbox, list[int], list[Program]]] = {}
    usual: Sandbox | None = None
    for place, one in enumerate(rows):
        row = one.row
        if not isinstance(row, CodeRow) or not row.tests or one.greedy is None:
            continue
        sandbox = row.sandbox or usual
        if sandbox is None:
            sandbox = usual = Sandbox()
        _, places, programs = asked.setdefault(id(sandbox), (sandbox, [], []))
        places.append(place)
        programs.append(Program(code_in(one.greedy), row.tests, row.setup))
    for sandbox, places, programs in asked.values():
        for place, outcome in zip(places, sandbox.run_all(programs), strict=True):
            outcomes[place] = outcome
    return outcomes
