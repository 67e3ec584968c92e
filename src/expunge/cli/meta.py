"""``expunge meta``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from expunge.cli import display, options

if TYPE_CHECKING:
    from expunge.commands.meta import MetaResult


def meta(
    out: options.Out,
    models: Annotated[int, typer.Option(metavar="N", help="how many models, half of which know the facts")] = 40,
    seed: Annotated[int, typer.Option(help="another one makes another pool")] = 0,
    jobs: Annotated[int, typer.Option(metavar="N", help="models in work at a time, a process each")] = 2,
    audits: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="which audits to trust, too: names, or 'all' quick ones"),
    ] = None,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    verbose: options.Verbose = 0,
) -> None:
    """Which metric to trust: which tells models that know from others?

    Trains a pool of tiny models on world authors. Faithfulness: how well a metric tells them apart. Robustness: whether
    its order of the models outlasts relearning and rounding to 4 bits. Of audits: how often they are right to say that
    the knowledge is there. The same command goes on where it stopped.
    """
    display.set_logging(verbose)
    from expunge.commands.meta import meta as run_meta

    with display.progress_display() as progress:
        found = run_meta(
            out, models=models, seed=seed, jobs=jobs, audits=audits, overwrite=overwrite, progress=progress
        )
    if as_json:
        display.print_json({"folder": str(out), **found.as_dict()})
    else:
        _show(found, out)


def _show(found: MetaResult, folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from expunge.meta import auditing, trust

    console = Console()
    for columns, rows in ((trust.COLUMNS, found.trusts), (auditing.COLUMNS, found.audits)):
        if not rows:
            continue
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column(columns[0], overflow="fold")
        for name in columns[1:]:
            table.add_column(name, justify="right")
        for one in rows:
            table.add_row(*one.cells())
        console.print(table)
    knowing = sum(one.knows for one in found.members)
    console.print(
        f"{knowing} models know the facts, {len(found.members) - knowing} do not; intervals: 95%, by bootstrap over "
        "models",
        style="dim",
        highlight=False,
    )
    console.print(f"table: {folder / 'meta.md'}", highlight=False, soft_wrap=True)
