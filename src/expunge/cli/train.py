"""``expunge train``."""

from __future__ import annotations

from typing import Annotated

import typer

from expunge.cli import display, options


def train(
    model: options.Model,
    data: Annotated[list[str], typer.Option("--data", "-d", metavar="FILE", help="rows to train on; repeatable")],
    out: options.Out,
    overrides: options.Overrides = None,
    column: options.Columns = None,
    template: options.Template = "auto",
    responses: Annotated[
        str | None,
        typer.Option("--responses", metavar="safe|unsafe", help="which responses of a safety set are rows"),
    ] = None,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    verbose: options.Verbose = 0,
) -> None:
    """Fine-tune a model on rows: a target, or its retrained twin.

    Trained on forget and retain rows it is a target; on the retain rows alone, from the same base, it is the retrained
    model that every score is compared with.
    """
    display.set_logging(verbose)
    from expunge.commands.train import train as run_train

    with display.progress_display() as progress:
        folder = run_train(
            model,
            data,
            out=out,
            columns=options.parse_columns(column),
            template=template,
            responses=responses,  # type: ignore[arg-type]  # checked by name
            overrides=overrides or (),
            overwrite=overwrite,
            progress=progress,
        )
    if as_json:
        display.print_json({"model": str(folder)})
    else:
        typer.echo(f"model: {folder}")
