"""``expunge evaluate``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from expunge.cli import display, options


def evaluate(
    model: options.Model,
    out: options.Out,
    overrides: options.Overrides = None,
    erasure: Annotated[
        str | None, typer.Option(metavar="DIR", help="erasure or run folder to apply to the model")
    ] = None,
    erased: Annotated[
        str | None, typer.Option(metavar="DIR|ID", help="or: another model, said to be the erased one")
    ] = None,
    suite: Annotated[
        str | None, typer.Option(metavar="NAME", help="see: expunge suites; request unless --tasks is given alone")
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="tasks of lm-evaluation-harness, such as mmlu,gsm8k: general abilities"),
    ] = None,
    tasks_path: Annotated[
        str | None, typer.Option("--tasks-path", metavar="DIR", help="folder with tasks of your own (YAML)")
    ] = None,
    evalplus: Annotated[
        str | None, typer.Option(metavar="DIR", help="also write code answers (suite mbpp) as evalplus reads them")
    ] = None,
    metric: Annotated[list[str] | None, typer.Option(metavar="NAME", help="only these scores; repeatable")] = None,
    retrained: options.Retrained = None,
    forget: Annotated[
        str | None, typer.Option("--forget", "-f", metavar="FILE", help="forget rows, for suite request")
    ] = None,
    retain: Annotated[
        str | None, typer.Option("--retain", "-r", metavar="FILE", help="retain rows, for suite request")
    ] = None,
    neighbours: Annotated[str | None, typer.Option(metavar="FILE", help="neighbour rows, for suite request")] = None,
    holdout: Annotated[str | None, typer.Option(metavar="FILE", help="holdout rows, for suite request")] = None,
    column: options.Columns = None,
    template: options.Template = "auto",
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    verbose: options.Verbose = 0,
) -> None:
    """Score a model, or a target and its erasure, on a suite or tasks."""
    display.set_logging(verbose)
    from expunge.commands.evaluate import evaluate as run_evaluate

    request: dict[str, Any] = {"forget": forget, "retain": retain, "neighbours": neighbours, "holdout": holdout}
    request |= {"columns": options.parse_columns(column), "template": template}
    with display.progress_display() as progress:
        run_evaluate(
            model,
            suite=suite,
            erasure=erasure,
            erased=erased,
            retrained=retrained,
            request=request,
            metrics=metric,
            tasks=tasks,
            tasks_path=tasks_path,
            evalplus=evalplus,
            out=out,
            overrides=overrides or (),
            overwrite=overwrite,
            progress=progress,
        )
    display.show_run(out, as_json=as_json)
