"""The ``expunge`` command: verbs, error messages, exit codes.

Exit codes: 0 done (whatever the verdict), 1 an unforeseen error, 2 bad input or settings, 3 a run that failed (NaN, a
damaged erasure, ..), 130 interrupted.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from expunge import distributed
from expunge.cli import (
    audit,
    demo,
    evaluate,
    export,
    forget,
    guards,
    listings,
    meta,
    negate,
    probe,
    recheck,
    report,
    run,
    teacher,
    train,
    world,
)
from expunge.errors import ExpungeError, InputError

_INTERRUPTED = 130
_SHARED = ("demo", "forget", "run", "train", "evaluate", "probe")
_GRACE = 10.0  # seconds that another process leaves the main one to say what is wrong, before it says so itself

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


_VERBS = (demo.demo, forget.forget, run.run, train.train, evaluate.evaluate, audit.audit, report.report)
for _verb in (*_VERBS, export.export):
    app.command()(_verb)
app.command()(negate.negate)
app.command()(probe.probe)
app.command()(recheck.recheck)
app.command()(meta.meta)
app.command()(listings.methods)
app.command()(listings.suites)
app.command()(listings.audits)
app.add_typer(world.app, name="world")
app.add_typer(guards.app, name="guards")
app.add_typer(teacher.app, name="teacher")


def main() -> None:
    """Entry point: turns errors a user can act on into one message and an exit code."""
    # Read when torch loads: threads that wait spinning for long slow a shared machine down tenfold, threads that never
    # spin cost a fifth of the time on a free one.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    if not distributed.is_main():
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the process ends
    try:
        _check_verb(sys.argv[1:])
        app(prog_name="expunge")
    except ExpungeError as error:
        if distributed.is_main():
            _say(str(error))
        else:
            # A launcher ends all processes once one has failed: the main one mostly finds the same and is to say it.
            time.sleep(_GRACE)
            _say(f"process {distributed.process()}: {error}")
        _end(error.exit_code)
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:  # typer turns Ctrl-C into this, without a word
            _interrupted()
        if distributed.processes() > 1 and (stop.code is None or isinstance(stop.code, int)):
            _end(stop.code or 0)
        raise


def _end(code: int) -> NoReturn:
    """Exit; one of several processes at once, since threads of torch that want Python's lock while Python shuts down
    abort it, and a process that others wait for must be seen to have failed."""
    if distributed.processes() > 1:
        if not code:
            distributed.leave()
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _check_verb(arguments: list[str]) -> None:
    """Refuse to do several times at once what one process does."""
    if distributed.processes() > 1 and arguments and not arguments[0].startswith("-") and arguments[0] not in _SHARED:
        raise InputError(
            f"expunge {arguments[0]} works in one process, and {distributed.processes()} were started. "
            f"{', '.join(_SHARED)} share their work among several; start the others without a launcher."
        )


def _interrupted() -> None:
    if distributed.is_main():
        _say("interrupted. Give the same command again to go on where it stopped.")
    _end(_INTERRUPTED)


def _say(message: str) -> None:
    from expunge.cli.display import error_console

    console = error_console()
    console.print("error: ", style="bold red", end="", highlight=False)
    console.print(message, markup=False, highlight=False, soft_wrap=True)
