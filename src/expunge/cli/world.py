"""``expunge world``: the embedded models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli import display, options

app = typer.Typer(help="The embedded models: list them, rebuild one.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_(as_json: options.AsJson = False) -> None:
    """The worlds there are."""
    from expunge.worlds.interface import get_world, list_worlds

    found = [{"name": name, "description": get_world(name).description} for name in list_worlds()]
    if as_json:
        display.print_json(found)
    else:
        for world in found:
            typer.echo(f"{world['name']}: {world['description']}")


@app.command()
def build(
    name: Annotated[str, typer.Argument(help="see: expunge world list")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="another folder than the package's own")] = None,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    verbose: options.Verbose = 0,
) -> None:
    """Train a world's target and retrained twin again from its recipe."""
    display.set_logging(verbose)
    from expunge.worlds.build import build_world

    with display.progress_display() as progress:
        world = build_world(name, out, overwrite=overwrite, progress=progress)
    if as_json:
        display.print_json({"world": str(world.folder), "scores": world.scores()["rows"]})
    else:
        typer.echo(f"world: {world.folder}")
