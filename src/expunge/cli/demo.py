"""``expunge demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli import display, options


def demo(
    overrides: options.Overrides = None,
    world: Annotated[str, typer.Option(metavar="NAME", help="see: expunge world list")] = "authors",
    out: options.Out = Path("runs/demo"),
    method: Annotated[list[str] | None, typer.Option(metavar="NAME", help="repeatable; several by default")] = None,
    seeds: options.Seeds = None,
    as_json: options.AsJson = False,
    verbose: options.Verbose = 0,
) -> None:
    """Make an embedded model forget, with several methods.

    Two authors, unless another world is named. Needs no files and no network; one report compares the methods with each
    other and with a model that never knew what they forget.
    """
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
