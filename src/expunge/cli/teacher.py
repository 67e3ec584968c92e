"""``expunge teacher``: what a method would teach in place of the forget rows."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from expunge.cli import display, options

app = typer.Typer(
    help="What a method teaches in place of the forget rows.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_LEAST = 0.005

Forget = Annotated[str | None, typer.Option("--forget", "-f", metavar="FILE", help="rows that must go; or a folder")]
Documents = Annotated[
    str | None, typer.Option(metavar="DIR", help="texts about --subject, in place of --forget", show_default=False)
]
Subject = Annotated[list[str] | None, typer.Option(metavar="NAME", help="who goes; repeatable")]
Alias = Annotated[list[str] | None, typer.Option(metavar="NAME", help="another name of theirs; repeatable")]
Method = Annotated[str, typer.Option(metavar="NAME", help="causal_intervention, whp or prompt_distill")]


@app.command()
def build(
    model: options.Model,
    out: options.Out,
    overrides: options.Overrides = None,
    forget: Forget = None,
    documents: Documents = None,
    subject: Subject = None,
    alias: Alias = None,
    method: Method = "causal_intervention",
    column: options.Columns = None,
    template: options.Template = "auto",
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    verbose: options.Verbose = 0,
) -> None:
    """Keep a teacher in a folder.

    States what that takes and loses beside dense distributions.
    """
    display.set_logging(verbose)
    from expunge.commands.teacher import build as run_build

    given = _given(overrides, documents, subject, alias, method, column, template)
    with display.progress_display() as progress:
        found = run_build(model, forget, out=out, overwrite=overwrite, progress=progress, **given)
    if as_json:
        display.print_json(found)
        return
    typer.echo(f"teacher: {found['out']}")
    typer.echo(_cut(found["rows"], found["cut_from"]))
    _say_sizes(found)


@app.command()
def show(
    model: options.Model,
    overrides: options.Overrides = None,
    forget: Forget = None,
    documents: Documents = None,
    subject: Subject = None,
    alias: Alias = None,
    method: Method = "causal_intervention",
    row: Annotated[int, typer.Option(metavar="N", min=1, help="which row of the student's, from 1")] = 1,
    top: Annotated[int, typer.Option(metavar="N", min=1, help="likeliest tokens shown of each")] = 3,
    column: options.Columns = None,
    template: options.Template = "auto",
    as_json: options.AsJson = False,
    verbose: options.Verbose = 0,
) -> None:
    """Show a row, token by token.

    Beside each token stands what the target says comes there, and what the teacher says.
    A token without a teacher (a part of a name, or one that some substitute's text has no match for) is not trained on.
    """
    display.set_logging(verbose)
    from expunge.commands.teacher import show as run_show

    given = _given(overrides, documents, subject, alias, method, column, template)
    with display.progress_display() as progress:
        found = run_show(model, forget, row=row, top=top, progress=progress, **given)
    if as_json:
        display.print_json(found)
        return
    console = Console()
    console.print(f"row {found['row']} of {_cut(found['rows'], found['cut_from'])}", markup=False, highlight=False)
    if found["prompt"]:
        console.print(f"after: {found['prompt']}", markup=False, highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("token", no_wrap=True, max_width=16)
    table.add_column("target", ratio=1)
    table.add_column("teacher", ratio=1)
    for one in found["tokens"]:
        taught = _likeliest(one["teacher"]) if one["taught"] else "-"
        table.add_row(*map(escape, (_shown(one["token"]), _likeliest(one["target"]), taught)))
    console.print(table)
    _say_sizes(found["store"])


def _given(
    overrides: list[str] | None,
    documents: str | None,
    subject: list[str] | None,
    alias: list[str] | None,
    method: str,
    column: list[str] | None,
    template: str,
) -> dict[str, Any]:
    return {
        "overrides": overrides or (),
        "documents": documents,
        "subjects": tuple(subject or ()),
        "aliases": tuple(alias or ()),
        "method": method,
        "columns": options.parse_columns(column),
        "template": template,
    }


def _cut(rows: int, forgotten: int) -> str:
    """How many rows the student has, and of how many that must go they are made."""
    return f"{rows:,} row{'' if rows == 1 else 's'}, made of {forgotten:,} that must go"


def _shown(token: str) -> str:
    """A token with its space and line breaks visible."""
    return token.replace("\n", "\\n").replace(" ", "\u00b7") or "(nothing)"


def _likeliest(pairs: list[tuple[str, float]]) -> str:
    """Tokens with their probabilities; after the first those that are not rounded to 0."""
    shown = [(token, p) for place, (token, p) in enumerate(pairs) if not place or p >= _LEAST]
    return "  ".join(f"{_shown(token)} {p:.2f}".replace(" 0.", " .") for token, p in shown)


def _say_sizes(found: dict[str, Any]) -> None:
    typer.echo(
        f"{found['positions']:,} tokens of {found['rows']:,} rows are taught\n"
        f"kept: {found['kept_tokens']} of {found['vocabulary']:,} tokens of each, {found['bytes']:,} bytes, "
        f"{100 * found['share_of_dense_float32']:.2g}% of dense float32\n"
        f"KL lost by that: mean {found['kl_lost_mean']:.2g}, at most {found['kl_lost_max']:.2g} nats"
    )
    if found["share_of_dense_float32"] > 1:
        typer.echo("Keeping this many tokens of so small a vocabulary takes more than dense does.")
