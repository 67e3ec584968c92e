"""``expunge audit``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from expunge.cli import display, options

if TYPE_CHECKING:
    from expunge.audits.running import Findings

_STYLES = {"good": "green", "caution": "yellow", "bad": "red", "neutral": "dim"}


def audit(
    model: options.Model,
    out: options.Out,
    overrides: options.Overrides = None,
    erasure: Annotated[
        str | None, typer.Option(metavar="DIR", help="erasure or run folder to apply to the model")
    ] = None,
    erased: Annotated[
        str | None, typer.Option(metavar="DIR|ID", help="or: another model, said to be the erased one")
    ] = None,
    retrained: options.Retrained = None,
    audits: Annotated[
        str | None, typer.Option(metavar="NAMES", help="such as paraphrase,many_shot; see: expunge audits")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="begin no audit after that; the same command goes on")
    ] = None,
    forget: Annotated[
        str | None,
        typer.Option("--forget", "-f", metavar="FILE", help="rows that were to go; else those of --erasure's run"),
    ] = None,
    retain: Annotated[
        str | None, typer.Option("--retain", "-r", metavar="FILE", help="rows that were to be kept")
    ] = None,
    neighbours: Annotated[str | None, typer.Option(metavar="FILE", help="close facts that were to be kept")] = None,
    documents: Annotated[
        str | None, typer.Option(metavar="DIR", help="texts about --subject, or RUN/request, in place of --forget")
    ] = None,
    holdout: Annotated[str | None, typer.Option(metavar="FILE", help="rows that no model was trained on")] = None,
    subject: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="a name of what was forgotten; repeatable")
    ] = None,
    alias: Annotated[list[str] | None, typer.Option(metavar="NAME", help="another name of it; repeatable")] = None,
    column: options.Columns = None,
    template: options.Template = "auto",
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    verbose: options.Verbose = 0,
) -> None:
    """Is it gone, or only hidden? Try to bring back what was removed."""
    display.set_logging(verbose)
    from expunge.commands.audit import audit as run_audit
    from expunge.commands.audit import own_request

    request: dict[str, Any] = {"forget": forget, "retain": retain, "neighbours": neighbours, "holdout": holdout}
    request |= {"documents": documents, "subjects": subject or (), "aliases": alias or ()}
    request |= {"columns": options.parse_columns(column), "template": None if template == "auto" else template}
    run = None if erasure is None else own_request(erasure, request, overrides or ())
    if run is not None:
        display.error_console().print(f"request: that of the run {run}", markup=False, highlight=False, soft_wrap=True)
    with display.progress_display() as progress:
        found = run_audit(
            model,
            erasure=erasure,
            erased=erased,
            retrained=retrained,
            request=request,
            audits=audits,
            budget=budget,
            out=out,
            overrides=overrides or (),
            overwrite=overwrite,
            progress=progress,
        )
    if as_json:
        display.print_json({"folder": str(out), **json.loads(json.dumps(found.as_dict()))})
    else:
        show_findings(found, out)
    if found.failed:
        raise typer.Exit(display.AUDIT_FAILED)


def show_findings(found: Findings, folder: Path) -> None:
    """What a reader must know first, a line for each audit, and what did not run."""
    from expunge.reports.audits import LABEL_TONES, lede_of

    console = Console()
    said = lede_of(found.as_dict())
    if said:
        console.print(escape(said), highlight=False)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("audit", "verdict"):
        table.add_column(column, no_wrap=True)
    table.add_column("what it found", overflow="fold")
    for name, entry in found.audits.items():
        label = entry["verdict"]["label"]
        table.add_row(
            name, Text(label, style=_STYLES.get(LABEL_TONES.get(label, ""), "")), escape(entry["verdict"]["sentence"])
        )
    if found.audits:
        console.print(table)
    for name, reason in found.left_out.items():
        if name not in found.waiting:
            console.print(escape(f"{name} left out: {reason}"), style="dim", highlight=False)
    if found.waiting:
        many = len(found.waiting) > 1
        console.print(
            f"{len(found.waiting)} audit{'s' * many} had no time left (--budget): {', '.join(found.waiting)}. "
            f"The same command goes on with {'them' if many else 'it'}.",
            highlight=False,
        )
    console.print(f"report: {folder / 'report.html'}", highlight=False, soft_wrap=True)
