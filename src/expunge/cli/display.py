"""What the terminal shows: progress on standard error, tables or JSON on standard output."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape

from expunge.training.run import Progress

_LINE_SECONDS = 20.0


def error_console() -> Console:
    """Standard error."""
    return Console(stderr=True)


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what standard error is at that moment: while bars are drawn, lines go above them."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def set_logging(verbosity: int) -> None:
    """Warnings of ours always; with ``-v`` what ours does, with ``-vv`` the libraries' logs too."""
    logging.basicConfig(
        format="%(levelname)s %(name)s: %(message)s", level=logging.ERROR, handlers=[_Stderr()], force=True
    )
    ours = logging.getLogger("expunge")
    ours.setLevel(logging.INFO if verbosity else logging.WARNING)
    if verbosity > 1:
        logging.getLogger().setLevel(logging.INFO)
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="torch|transformers|peft|accelerate")


@contextmanager
def progress_display() -> Iterator[Progress]:
    """A bar for whatever takes longer than a second; without a terminal, a line every 20 seconds."""
    console = error_console()
    if not console.is_terminal:
        yield _lines(console)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", justify="left"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, transient=True, expand=True) as bars:
        current: dict[str, Any] = {}

        def show(done: int, total: int, what: str) -> None:
            if current.get("what") != what:
                if "task" in current:
                    bars.remove_task(current["task"])
                current.update(what=what, task=bars.add_task(what, total=total))
            bars.update(current["task"], completed=done, total=total)

        yield show


def _lines(console: Console) -> Progress:
    current, shown = "", 0.0

    def show(done: int, total: int, what: str) -> None:
        nonlocal current, shown
        now = time.monotonic()
        if what != current:
            current, shown = what, now
        if now - shown >= _LINE_SECONDS:
            shown = now
            console.print(f"{what}: {done} of {total}", highlight=False)

    return show


def print_json(value: Any) -> None:
    """JSON on standard output, and nothing else."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def show_run(folder: Path, *, as_json: bool) -> None:
    """The scores of a finished run folder: a table and the verdict, or ``scores.json`` with the folder's path."""
    from expunge.reports import find_runs, load_runs
    from expunge.reports.terminal import comparison_table, scores_table, verdict_panel

    runs = load_runs(find_runs(folder))
    if as_json:
        values = [{"folder": str(run.folder), "method": run.method, **run.scores} for run in runs]
        print_json(values[0] if len(values) == 1 else values)
        return
    console = Console()
    if len(runs) > 1:
        console.print(comparison_table(runs))
        for run in runs:
            console.print(f"[bold]{escape(run.label)}[/bold]: {escape(run.verdict['sentence'])}", highlight=False)
    else:
        console.print(scores_table(runs[0].scores))
        console.print(verdict_panel(runs[0].scores))
    console.print(f"report: {folder / 'report.html'}", highlight=False, soft_wrap=True)
