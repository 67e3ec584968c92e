"""``expunge export``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from expunge.cli import display, options

if TYPE_CHECKING:
    from expunge.commands.export import Exported


def export(
    folder: Annotated[Path, typer.Argument(help="run folder, or an erasure's folder with --model")],
    to: Annotated[Path, typer.Option("--to", help="folder for the checkpoint")],
    model: Annotated[str | None, typer.Option("--model", "-m", help="the target, if not the run's own")] = None,
    harmful_copy: Annotated[
        bool, typer.Option("--harmful-copy", help="write a harmful copy too, which is no erased model")
    ] = False,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    verbose: options.Verbose = 0,
) -> None:
    """Write the erased model as a plain checkpoint for any engine."""
    display.set_logging(verbose)
    from expunge.commands.export import write

    with display.progress_display() as progress:
        done = write(folder, to, model=model, overwrite=overwrite, harmful_copy=harmful_copy, progress=progress)
    if as_json:
        display.print_json({"model": str(done.folder)})
    else:
        typer.echo(summary(done))


def summary(done: Exported) -> str:
    """What was written and what to do with it."""
    folder, target = shlex.quote(str(done.folder)), shlex.quote(done.target)
    if done.harmful_copy:
        said = f"a harmful copy by {done.method}, not an erased model"
        then = f"subtract it: expunge negate {target} \\\n  {folder} --out DIR"
    else:
        said = f"the target with what {done.method} changed; loaded again, it gives the same logits"
        then = f"score it: expunge evaluate --model {target} \\\n  --erased {folder} --out DIR --forget FILE"
    return f"model: {done.folder}\n{said}\n{then}"
