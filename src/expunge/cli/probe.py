"""``expunge probe``."""

from __future__ import annotations

from typing import Annotated

import typer

from expunge.cli import display, options


def probe(
    model: options.Model,
    out: options.Out,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="settings of model, request and probe, such as probe.max_length=256 request.world=authors",
            show_default=False,
        ),
    ] = None,
    forget: Annotated[str | None, typer.Option("--forget", "-f", metavar="FILE", help="rows that must go")] = None,
    retain: Annotated[str | None, typer.Option("--retain", "-r", metavar="FILE", help="rows that must stay")] = None,
    role: Annotated[
        list[str] | None,
        typer.Option(
            "--role",
            metavar="ROLE|PATTERN",
            help="mlp_activation (the default), mlp_key, attention_output, residual, or modules by name "
            "(*.down_proj:input); repeatable",
        ),
    ] = None,
    layers: Annotated[str | None, typer.Option(metavar="LIST", help="which layers (0,2), from 0; else all")] = None,
    part: Annotated[
        str | None, typer.Option(metavar="PART", help="prompt, answer or all of a row (the default)")
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(
            metavar="POOLING", help="what counts: all tokens (the default), the last, or the mean over a row's"
        ),
    ] = None,
    column: options.Columns = None,
    template: options.Template = "auto",
    allow_overlap: Annotated[bool, typer.Option("--allow-overlap", help="rows may be in forget and retain")] = False,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    verbose: options.Verbose = 0,
) -> None:
    """Show which layers and neurons tell forget rows from retain rows.

    Reads activations in one pass over the rows and keeps their statistics, the figures and a page with pictures.
    The rows of an embedded world: request.world=NAME.
    """
    display.set_logging(verbose)
    from expunge.commands.probe import probe as run_probe

    with display.progress_display() as progress:
        folder = run_probe(
            model,
            forget,
            retain=retain,
            out=out,
            sites=role or None,
            layers=options.parse_layers(layers),
            part=part,
            pooling=pooling,
            columns=options.parse_columns(column),
            template=template,
            allow_overlap=allow_overlap,
            overrides=overrides or (),
            overwrite=overwrite,
            progress=progress,
        )
    display.show_probe(folder, as_json=as_json)
