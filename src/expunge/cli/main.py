"""The ``expunge`` command: verbs, error messages, exit codes.

Exit codes: 0 done (whatever the verdict), 1 an unforeseen error, 2 bad input or settings, 3 a run that failed (NaN, a
damaged erasure, ..), 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from expunge.cli import demo, evaluate, export, forget, listings, report, run, train, world
from expunge.errors import ExpungeError

_INTERRUPTED = 130

app = typer.Typer(
    name="expunge",
    help="Remove chosen knowledge from a language model, measure how deep the removal goes, keep a model people use.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        import expunge

        typer.echo(expunge.__version__)
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


for _verb in (demo.demo, forget.forget, run.run, train.train, evaluate.evaluate, report.report, export.export):
    app.command()(_verb)
app.command()(listings.methods)
app.command()(listings.suites)
app.add_typer(world.app, name="world")


def main() -> None:
    """Entry point: turns errors a user can act on into one message and an exit code."""
    # Read when torch loads: threads that wait spinning for long slow a shared machine down tenfold, threads that never
    # spin cost a fifth of the time on a free one.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    try:
        app(prog_name="expunge")
    except ExpungeError as error:
        _say(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:  # typer turns Ctrl-C into this, without a word
            _interrupted()
        raise


def _interrupted() -> None:
    _say("interrupted. Give the same command again to go on where it stopped.")
    sys.exit(_INTERRUPTED)


def _say(message: str) -> None:
    from expunge.cli.display import error_console

    console = error_console()
    console.print("error: ", style="bold red", end="", highlight=False)
    console.print(message, markup=False, highlight=False, soft_wrap=True)
