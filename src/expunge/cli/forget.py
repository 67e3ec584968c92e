"""``expunge forget``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from expunge.cli import display, options


def forget(
    model: options.Model,
    out: options.Out,
    forget: Annotated[
        str | None,
        typer.Option("--forget", "-f", metavar="FILE", help="rows that must go; or a folder or datasets hub id"),
    ] = None,
    overrides: options.Overrides = None,
    retain: Annotated[str | None, typer.Option("--retain", "-r", metavar="FILE", help="rows that must stay")] = None,
    neighbours: Annotated[str | None, typer.Option(metavar="FILE", help="close facts that must stay")] = None,
    holdout: Annotated[str | None, typer.Option(metavar="FILE", help="rows that no model was trained on")] = None,
    calibration: Annotated[str | None, typer.Option(metavar="FILE", help="retain rows no method is fitted on")] = None,
    documents: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="texts about --subject, in place of --forget"),
    ] = None,
    subject: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="name of who or what goes; repeatable")
    ] = None,
    alias: Annotated[list[str] | None, typer.Option(metavar="NAME", help="another name of it; repeatable")] = None,
    review: Annotated[bool, typer.Option("--review", help="show the names found in --documents, and ask")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="answer --review with yes")] = False,
    method: Annotated[str, typer.Option(metavar="NAME", help="see: expunge methods")] = "npo",
    retrained: options.Retrained = None,
    suite: Annotated[str, typer.Option(metavar="NAME", help="see: expunge suites")] = "request",
    seeds: options.Seeds = None,
    column: options.Columns = None,
    template: options.Template = "auto",
    allow_overlap: Annotated[bool, typer.Option("--allow-overlap", help="rows may be in forget and retain")] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="only estimate memory and time, and say what to change if it will not fit")
    ] = False,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    verbose: options.Verbose = 0,
) -> None:
    """Make a model forget rows, or the subject of documents.

    Fits a method, saves what it changed, scores the result beside its controls and writes a report. A run that was
    stopped goes on when the same command is given again.
    """
    display.set_logging(verbose)
    from expunge.cli.review import reviewer
    from expunge.commands.forget import forget as run_forget
    from expunge.commands.plan import plan as plan_forget

    given: dict[str, Any] = {
        "method": method,
        "retain": retain,
        "neighbours": neighbours,
        "holdout": holdout,
        "calibration": calibration,
        "documents": documents,
        "subjects": subject or (),
        "aliases": alias or (),
        "columns": options.parse_columns(column),
        "allow_overlap": allow_overlap,
        "template": template,
        "retrained": retrained,
        "suite": suite,
        "seeds": options.parse_seeds(seeds),
        "overrides": overrides or (),
    }
    # a plan does nothing that would have to be confirmed
    given["review"] = reviewer(ask=review, yes=yes or plan)
    if plan:
        with display.progress_display() as progress:
            found = plan_forget(model, forget, **given, progress=progress)
        display.show_plan(found, as_json=as_json)
        return
    with display.progress_display() as progress:
        folder = run_forget(model, forget, out=out, **given, overwrite=overwrite, progress=progress)
    display.show_run(Path(folder), as_json=as_json)
    display.end_by_audits(Path(folder))
