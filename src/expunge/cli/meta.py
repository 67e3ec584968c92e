"""``expunge meta``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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

    console = Console()

    def show(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column(columns[0], overflow="fold")
        for name in columns[1:]:
            table.add_column(name, justify="right")
        for row in rows:
            table.add_row(*row)
        console.print(table)

    # what fits 80 columns; all of it is in the files
    show(
        ("metric", "AUC", "95%", "relearned", "4 bits"),
        (
            (
                one.metric,
                f"{one.faithfulness.value:.2f}",
                f"{one.faithfulness.low:.2f} to {one.faithfulness.high:.2f}",
                f"{one.relearning.value:.2f}",
                f"{one.quantization.value:.2f}",
            )
            for one in found.trusts
        ),
    )
    if found.audits:
        show(
            ("audit says it is there:", "know", "told nothing", "false facts", "AUC"),
            ((row[0], row[1], row[3], row[4], row[5].split(" ")[0]) for row in (one.cells() for one in found.audits)),
        )
    knowing = sum(one.knows for one in found.members)
    console.print(
        f"{knowing} models know the facts, {len(found.members) - knowing} do not. AUC: how well they are told apart, "
        "with an interval by bootstrap over models; relearned, 4 bits: whether their order holds.",
        style="dim",
        highlight=False,
    )
    tables = "meta.md and meta_audits.md" if found.audits else "meta.md"
    console.print(f"tables: {tables} in {folder}", highlight=False, soft_wrap=True)
