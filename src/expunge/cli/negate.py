"""``expunge negate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli import display, options


def negate(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="folder or hub id of the target, or world:NAME")],
    harmful: Annotated[
        list[str],
        typer.Argument(
            metavar="HARMFUL",
            help="what learned the harm: checkpoints, LoRA adapters, or runs made from the target",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="folder for the checkpoint")],
    scale: Annotated[
        float, typer.Option("--scale", "-s", metavar="S", help="how much of each difference is taken away")
    ] = 1.0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace the checkpoint that is in the folder")
    ] = False,
    as_json: options.AsJson = False,
    verbose: options.Verbose = 0,
) -> None:
    """Subtract what harmful models learned from a target's weights.

    Writes target - S * sum(harmful - target), file by file: a few megabytes are in memory at a time, so that models
    larger than memory pass. A killed command goes on where it stopped when it is given again.
    """
    display.set_logging(verbose)
    from expunge.commands.negate import negate as run_negate

    with display.progress_display() as progress:
        written = run_negate(target, harmful, out=out, scale=scale, overwrite=overwrite, progress=progress)
    if as_json:
        display.print_json({"model": str(written)})
    else:
        typer.echo(f"model: {written}")
