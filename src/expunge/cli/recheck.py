"""``expunge recheck``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from expunge.cli import display, options

if TYPE_CHECKING:
    from expunge.commands.recheck import Rechecked


def recheck(
    folder: Annotated[Path, typer.Argument(help="folder of the last run", show_default=False)],
    as_json: options.AsJson = False,
    verbose: options.Verbose = 0,
) -> None:
    """Check removals that followed one another on the last model.

    For a run whose target was an earlier run's erased model (--model run:DIR). The request of every run before it is
    scored again, beside the scores right after its own removal: what comes back, what was lost.
    """
    display.set_logging(verbose)
    from expunge.commands.recheck import recheck as run_recheck

    with display.progress_display() as progress:
        found = run_recheck(folder, progress=progress)
    if as_json:
        display.print_json([one.to_json() for one in found])
        return
    _show(found)


def _show(found: list[Rechecked]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from expunge.reports.names import metric_name

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("request", overflow="fold")
    table.add_column("score", overflow="fold")
    for name in ("before", "right after", "at the end"):
        table.add_column(name, justify="right")
    table.add_column("")
    about = ""
    for one in found:
        values = ("" if pair is None else f"{pair[0]:.2f}" for pair in (one.before, one.after, one.end))
        shown, about = ("" if one.run == about else one.about), one.run
        table.add_row(escape(shown), escape(metric_name(one.key).label), *values, one.changed)
    Console().print(table)
    removals = len({one.run for one in found})
    said = [(word, sum(one.changed == word for one in found)) for word in ("comes back", "lost")]
    counts = ", ".join(f"{word}: {count}" for word, count in said)
    typer.echo(f"{removals} removals, {len(found)} scores; {counts} (beyond 2 standard errors)")
