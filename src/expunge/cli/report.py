"""``expunge report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli import display, options


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR", help="run folders, or folders that hold several")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="the page; report.html in the folder by default")
    ] = None,
    title: Annotated[str | None, typer.Option(metavar="TEXT", help="heading of the page")] = None,
    as_json: options.AsJson = False,
    verbose: options.Verbose = 0,
) -> None:
    """Write one self-contained page over one or many runs."""
    display.set_logging(verbose)
    from expunge.reports import report as write_report

    page = write_report(folders, out=out, title=title)
    if as_json:
        display.print_json({"report": str(page)})
    else:
        typer.echo(f"report: {page}")
