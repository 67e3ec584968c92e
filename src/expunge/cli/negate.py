"""``expunge negate``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from expunge.cli import display, options

if TYPE_CHECKING:
    from expunge.commands.negate import Negation


def negate(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="folder or hub id of the target, or world:NAME")],
    harmful: Annotated[
        list[str],
        typer.Argument(
            metavar="HARMFUL",
            help="what learned the harm: checkpoints, LoRA adapters, or harmful copies made from the target",
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
    from expunge.commands.negate import subtract

    with display.progress_display() as progress:
        done = subtract(target, harmful, out=out, scale=scale, overwrite=overwrite, progress=progress)
    if as_json:
        display.print_json({"model": str(done.folder)})
    else:
        typer.echo(summary(done, target))


def summary(done: Negation, target: str) -> str:
    """What was written and how to score it."""
    models = f"{done.vectors} harmful model{'' if done.vectors == 1 else 's'}"
    said = f"scale {done.scale:g}, {models}: {done.changed} of {done.tensors} tensors changed"
    if done.scale == 0:
        said = "scale 0: nothing was subtracted, this is a copy of the target"
    if done.finished:
        said += f"\n{done.finished} of {done.files} files were finished by an earlier call and kept"
    return (
        f"model: {done.folder}\n{said}\n"
        f"score it: expunge evaluate --model {shlex.quote(target)} \\\n"
        f"  --erased {shlex.quote(str(done.folder))} --out DIR \\\n"
        "  --suite safety suite.harmful=FILE suite.normal=FILE"
    )
