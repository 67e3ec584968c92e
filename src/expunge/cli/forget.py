"""``expunge forget``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli import display, options


def forget(
    model: options.Model,
    forget: Annotated[str, typer.Option("--forget", "-f", help="rows that must go: a file, folder or datasets hub id")],
    out: options.Out,
    overrides: options.Overrides = None,
    retain: Annotated[str | None, typer.Option("--retain", "-r", help="rows that must stay")] = None,
    neighbours: Annotated[str | None, typer.Option(help="close facts that must stay")] = None,
    holdout: Annotated[str | None, typer.Option(help="rows that no model was trained on")] = None,
    calibration: Annotated[str | None, typer.Option(help="retain rows no method is fitted on")] = None,
    subject: Annotated[list[str] | None, typer.Option(help="name of who or what goes; repeatable")] = None,
    alias: Annotated[list[str] | None, typer.Option(help="another name of it; repeatable")] = None,
    method: Annotated[str, typer.Option(help="see: expunge methods")] = "npo",
    retrained: options.Retrained = None,
    suite: Annotated[str, typer.Option(help="see: expunge suites")] = "request",
    seeds: options.Seeds = None,
    column: options.Columns = None,
    template: options.Template = "auto",
    allow_overlap: Annotated[bool, typer.Option("--allow-overlap", help="rows may be in forget and retain")] = False,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    verbose: options.Verbose = 0,
) -> None:
    """Make a model forget the rows of a file: fits, saves, scores and reports."""
    display.set_logging(verbose)
    from expunge.commands.forget import forget as run_forget

    with display.progress_display() as progress:
        folder = run_forget(
            model,
            forget,
            out=out,
            method=method,
            retain=retain,
            neighbours=neighbours,
            holdout=holdout,
            calibration=calibration,
            subjects=subject or (),
            aliases=alias or (),
            columns=options.parse_columns(column),
            allow_overlap=allow_overlap,
            template=template,
            retrained=retrained,
            suite=suite,
            seeds=options.parse_seeds(seeds),
            overrides=overrides or (),
            overwrite=overwrite,
            progress=progress,
        )
    display.show_run(Path(folder), as_json=as_json)
