"""``expunge run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli import display, options


def run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="a run file, such as the run.yaml of an earlier run")],
    out: options.Out,
    overrides: options.Overrides = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="only estimate memory and time, and say what to change if it will not fit")
    ] = False,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    verbose: options.Verbose = 0,
) -> None:
    """The same as forget, from a run file.

    Files named in it are taken relative to the working directory; settings given after it go first.
    """
    display.set_logging(verbose)
    from expunge.cli.review import reviewer
    from expunge.commands.forget import run as run_file
    from expunge.commands.plan import plan_run

    shown = reviewer(ask=False, yes=False)
    if plan:
        with display.progress_display() as progress:
            found = plan_run(file, overrides=overrides or (), progress=progress, review=shown)
        display.show_plan(found, as_json=as_json)
        return
    with display.progress_display() as progress:
        folder = run_file(
            file,
            out=out,
            overrides=overrides or (),
            overwrite=overwrite,
            progress=progress,
            review=shown,
        )
    display.show_run(folder, as_json=as_json)
    display.end_by_audits(folder)
