"""``expunge demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli import display, options


def demo(
    overrides: options.Overrides = None,
    world: Annotated[str, typer.Option(help="see: expunge world list")] = "authors",
    out: options.Out = Path("runs/demo"),
    method: Annotated[list[str] | None, typer.Option(help="repeatable; several by default")] = None,
    seeds: options.Seeds = None,
    as_json: options.AsJson = False,
    verbose: options.Verbose = 0,
) -> None:
    """Forget two authors of an embedded model with several methods, and compare them in one report."""
    display.set_logging(verbose)
    from expunge.commands.demo import METHODS
    from expunge.commands.demo import demo as run_demo

    with display.progress_display() as progress:
        folder = run_demo(
            world,
            out=out,
            methods=method or METHODS,
            seeds=options.parse_seeds(seeds),
            overrides=overrides or (),
            progress=progress,
        )
    display.show_run(folder, as_json=as_json)
