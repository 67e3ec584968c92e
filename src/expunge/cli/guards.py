"""``expunge guards``: a store of input guards of one model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from expunge.cli import display, options
from expunge.errors import ErasureError

app = typer.Typer(
    help="Many input guards of one model, in a store.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="the guard's name, as list shows it", show_default=False)]
Who = Annotated[str | None, typer.Option("--who", metavar="NAME", help="who decided it; else the user's name")]
Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="the reason, for the audit trail")]
_LISTED = 20
_NAMES = 3


@app.callback()
def _store(
    context: typer.Context,
    store: Annotated[Path, typer.Argument(metavar="STORE", help="the store's folder", show_default=False)],
) -> None:
    context.obj = store


@app.command("list")
def list_(context: typer.Context, as_json: options.AsJson = False) -> None:
    """The guards, and who added them when and why."""
    from expunge.commands.guards import listed

    found = listed(_opened(context))
    if as_json:
        display.print_json(found)
    else:
        table = _table("guard", "state", "added", "who", "why")
        for one in found["guards"]:
            why = " ".join(filter(None, (one["why"], _named(one["subjects"]))))
            state = "enabled" if one["enabled"] else "disabled"
            table.add_row(*map(escape, (one["name"], state, one["added"][:10], one["who"], why)))
        Console().print(table)
        whole = "broken" if found["problems"] else "whole"
        typer.echo(f"audit trail: {found['changes']} changes, {whole}, head {found['head'][:16]}")
    if found["problems"]:
        raise ErasureError(
            f"the store {found['store']} is damaged: {'; '.join(found['problems'])}. Put back a copy of what is damaged"
        )


@app.command()
def log(context: typer.Context, as_json: options.AsJson = False) -> None:
    """Every change there was, the first at the top."""
    store = _opened(context)
    store.guards()
    entries = store.trail.read()
    if as_json:
        display.print_json([entry.as_dict() for entry in entries])
        return
    table = _table("time (UTC)", "change", "guard", "who", "why")
    for entry in entries:
        when = entry.time[:16].replace("T", " ")
        table.add_row(*map(escape, (when, entry.action, entry.guard, entry.who, entry.why)))
    Console().print(table)


@app.command()
def add(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="run folder or erasure with an input guard")],
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="of the guard; else its own")] = None,
    who: Who = None,
    why: Why = "",
    as_json: options.AsJson = False,
) -> None:
    """Add the guard of a run, enabled."""
    display.set_logging(0)
    names = _opened(context).add(run, name, who=who, why=why)
    _done("added", names, as_json=as_json)


@app.command()
def disable(
    context: typer.Context, name: Name, who: Who = None, why: Why = "", as_json: options.AsJson = False
) -> None:
    """Let a guard rest; it stays in the store."""
    _opened(context).disable(name, who=who, why=why)
    _done("disabled", [name], as_json=as_json)


@app.command()
def enable(context: typer.Context, name: Name, who: Who = None, why: Why = "", as_json: options.AsJson = False) -> None:
    """Let a guard act again."""
    _opened(context).enable(name, who=who, why=why)
    _done("enabled", [name], as_json=as_json)


@app.command()
def lift(context: typer.Context, name: Name, who: Who = None, why: Why = "", as_json: options.AsJson = False) -> None:
    """Take a guard out of force; its files are kept."""
    folder = _opened(context).lift(name, who=who, why=why)
    _done("lifted", [name], as_json=as_json, files=str(folder))


@app.command()
def check(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="as a user would write it", show_default=False)],
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="DIR|ID", help="the target, for guards that read its states")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Say which guard acts on a prompt, with every guard's score."""
    display.set_logging(0)
    from expunge.commands.guards import check as judged

    found = judged(_opened(context), prompt, model=model)
    acting = next((one.guard for one in found if one.acts), None)
    if as_json:
        display.print_json({"acts": acting, "guards": [one.as_dict() for one in found]})
        return
    table = _table("guard", "score", "threshold", "above", "")
    for one in found[:_LISTED]:
        numbers = (f"{value:.3f}" for value in (one.score, one.threshold, one.score - one.threshold))
        table.add_row(escape(one.guard), *numbers, "acts" if one.acts else "" if one.enabled else "disabled")
    Console().print(table)
    if len(found) > _LISTED:
        typer.echo(f"{len(found) - _LISTED} guards farther below their thresholds are left out; --json has them")
    typer.echo(f"'{acting}' acts on this prompt" if acting else "no guard acts on this prompt")


def _named(subjects: list[str]) -> str:
    """The first subjects and aliases, in brackets; --json has them all."""
    rest = len(subjects) - _NAMES
    shown = [*subjects[:_NAMES], *([f"and {rest} more"] if rest > 0 else [])]
    return f"({', '.join(shown)})" if subjects else ""


def _opened(context: typer.Context) -> Any:
    from expunge.commands.guards import store_at

    return store_at(context.obj)


def _done(what: str, names: list[str], *, as_json: bool, **more: str) -> None:
    if as_json:
        display.print_json({what: names, **more})
        return
    typer.echo(f"{what}: {', '.join(names)}")
    for key, value in more.items():
        typer.echo(f"{key}: {value}")


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for place, column in enumerate(columns):
        numeric = column in ("score", "threshold", "above")
        table.add_column(column, overflow="fold", justify="right" if numeric else "left", no_wrap=numeric or place == 1)
    return table
