"""``expunge export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli import display, options


def export(
    folder: Annotated[Path, typer.Argument(help="run folder, or an erasure's folder with --model")],
    to: Annotated[Path, typer.Option("--to", help="folder for the checkpoint")],
    model: Annotated[str | None, typer.Option("--model", "-m", help="the target, if not the run's own")] = None,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    verbose: options.Verbose = 0,
) -> None:
    """Write the erased model as a plain checkpoint for any engine."""
    display.set_logging(verbose)
    from expunge.commands.export import export as run_export

    with display.progress_display() as progress:
        written = run_export(folder, to, model=model, overwrite=overwrite, progress=progress)
    if as_json:
        display.print_json({"model": str(written)})
    else:
        typer.echo(f"model: {written}")
