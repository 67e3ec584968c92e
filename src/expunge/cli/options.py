"""Options that several verbs share, described once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expunge.errors import ConfigError

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="settings, such as method.beta=0.2 training.epochs=3; expunge methods NAME lists them",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="folder for everything the run leaves behind")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="delete the run that is in the folder")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for machines instead of tables")]
Verbose = Annotated[
    int,
    typer.Option("--verbose", "-v", count=True, show_default=False, help="show logs; -vv those of the libraries too"),
]
Model = Annotated[
    str, typer.Option("--model", "-m", metavar="DIR|ID", help="folder or hub id of the target, or world:NAME")
]
Retrained = Annotated[
    str | None,
    typer.Option(
        "--retrained", metavar="DIR|ID", help="a model trained without the forget rows: the control of every score"
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column", metavar="ROLE=NAME", help="which column plays a role, such as question=prompt_text; repeatable"
    ),
]
Template = Annotated[str, typer.Option("--template", metavar="STYLE", help="auto, chat or plain")]
Seeds = Annotated[str | None, typer.Option("--seeds", metavar="N|LIST", help="how many seeds (5), or which (0,1,7)")]


def parse_seeds(text: str | None) -> int | list[int] | None:
    """``5`` means seeds 0 to 4; ``0,1,7`` these three; nothing means training.seed."""
    if text is None:
        return None
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--seeds {text!r}: expected a count such as 5, or a list such as 0,1,7.") from None
    if len(numbers) == 1 and "," not in text:
        if numbers[0] < 1:
            raise ConfigError(f"--seeds {text}: at least one seed is needed.")
        return numbers[0]
    return numbers


def parse_layers(text: str | None) -> list[int] | None:
    """``0,2`` as a list; nothing means all layers."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--layers {text!r}: expected numbers counted from 0, such as 0,2.") from None


def parse_columns(pairs: list[str] | None) -> dict[str, str]:
    """``["question=q"]`` as a mapping from role to column."""
    columns: dict[str, str] = {}
    for pair in pairs or []:
        role, equals, column = pair.partition("=")
        if not equals or not role or not column:
            raise ConfigError(f"--column {pair!r}: expected ROLE=COLUMN, such as question=prompt_text.")
        columns[role] = column
    return columns
