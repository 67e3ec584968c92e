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
from typing import TYPE_CHECKING, Any, TextIO

import typer
from rich.console import Console
from rich.markup import escape

from expunge.distributed import is_main
from expunge.training.run import Progress, silent

if TYPE_CHECKING:
    from expunge.training.plan import Plan

AUDIT_FAILED = 3  # the exit code
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
    ours.setLevel(logging.CRITICAL if not is_main() else logging.INFO if verbosity else logging.WARNING)
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
    """A bar for whatever takes longer than a second; without a terminal, a line every 20 seconds. Of several processes
    the main one shows it."""
    if not is_main():
        yield silent
        return
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
    bars = Bars(*columns, console=console, transient=True, expand=True)
    current: dict[str, Any] = {}

    def show(done: int, total: int, what: str) -> None:
        bars.start()  # only now: a question that is asked before would be drawn over
        if current.get("what") != what:
            if "task" in current:
                bars.remove_task(current["task"])
            current.update(what=what, task=bars.add_task(what, total=total))
        bars.update(current["task"], completed=done, total=total)

    try:
        yield show
    finally:
        bars.stop()


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
    from expunge.reports.audits import lede as audited
    from expunge.reports.calibration import summary
    from expunge.reports.guard import summary as guard_summary
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
            for said in filter(None, (summary(run), guard_summary(run), audited(run))):
                console.print(escape(said), highlight=False)
    else:
        console.print(scores_table(runs[0].scores))
        console.print(verdict_panel(runs[0].scores))
        for said in filter(None, (summary(runs[0]), guard_summary(runs[0]), audited(runs[0]))):
            console.print(escape(said), highlight=False)
    console.print(f"report: {folder / 'report.html'}", highlight=False, soft_wrap=True)


def end_by_audits(folder: Path) -> None:
    """End with the exit code of ``expunge audit`` where audits of the run in ``folder`` failed."""
    from expunge.audits.running import FILE, failed_in

    failed = failed_in(folder / FILE)
    if failed:
        said = f"audits that failed: {', '.join(failed)} (the report says why). The same command goes on with them."
        error_console().print(said, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(AUDIT_FAILED)


def show_probe(folder: Path, *, as_json: bool) -> None:
    """What a probe found: tables for each role and what the numbers mean, or ``probe.json``."""
    facts = json.loads((folder / "probe.json").read_text(encoding="utf-8"))
    if as_json:
        print_json({"folder": str(folder), **facts})
        return
    from expunge.reports.probe_page import chance_in_words, lede, rows_in_words, values_in_words
    from expunge.reports.probe_terminal import groups_table, layers_table, neurons_table

    console = Console()
    console.print(f"{rows_in_words(facts)} rows; {values_in_words(facts)}.", highlight=False)
    for role in facts["roles"]:
        console.print(layers_table(facts, role["role"]))
        console.print(neurons_table(facts, role["role"]))
        if facts["groups"]:
            console.print(groups_table(facts, role["role"]))
    console.print(escape(lede(facts)), highlight=False)
    console.print(
        "standardised: forget mean less retain mean, in standard deviations (+ forget is higher). At 0.5 the two "
        "normal densities share 80% of their area, at 2 a third. share: neurons further apart than "
        f"{facts['threshold']:g}. {chance_in_words(facts)}\n"
        f"of top {100 * facts['top_share']:g}%: how many of the neurons whose mean is higher on forget by the most, "
        "in the activation's own units.",
        style="dim",
        highlight=False,
    )
    if facts["left_out"]:
        console.print(f"{len(facts['left_out'])} experts were sent too few tokens and are left out.", highlight=False)
    console.print(f"page: {folder / 'probe.html'}", highlight=False, soft_wrap=True)


def show_plan(plan: Plan, *, as_json: bool) -> None:
    """An estimate: one row for each part of memory, the time, and what to change where it does not fit."""
    if as_json:
        print_json(plan.to_dict())
        return
    from rich.table import Table

    console = Console()
    shape, work = plan.shape, plan.work
    rows = ", ".join(f"{count:,} {side}" for side, count in work.rows.items())
    console.print(f"{plan.method} on {escape(plan.model)}", highlight=False, soft_wrap=True)
    console.print(
        f"{_short(shape.parameters)} parameters, {_short(shape.trained)} trained. Rows: {rows}; "
        f"{sum(work.tokens.values()):,} tokens, {sum(work.answer_tokens.values()):,} of answers, the longest row "
        f"{work.longest:,}. {work.steps:,} optimizer step{'' if work.steps == 1 else 's'}, "
        f"{work.forwards:,} forward{'' if work.forwards == 1 else 's'}.",
        highlight=False,
    )
    gpu = plan.device != "cpu"
    table = Table(box=None, pad_edge=False)
    table.add_column("memory")
    table.add_column(f"GB on {plan.device}", justify="right")
    if gpu:
        table.add_column("GB in host", justify="right")
    table.add_column("", overflow="fold")

    def line(name: str, size: int, host: int, note: str = "") -> None:
        table.add_row(name, _gb(size), *([_gb(host) if host else ""] if gpu else []), note)

    for part in plan.parts:
        line(part.name, part.bytes, part.host, part.note)
    for stage, size in plan.stages.items():
        line(f"= {stage}", size, 0, "the peak" if size == plan.peak else "")
    line("free", plan.memory, plan.host_memory if gpu else 0)
    console.print(table)
    times = f" x {plan.seeds} seeds" if plan.seeds > 1 else ""
    console.print(
        f"time: about {_duration(plan.seconds)}{times} of training, {_duration(plan.reference_seconds)} of it for the "
        f"reference, at {plan.rate / 1e12:.2g} TFLOP/s; evaluation comes on top",
        highlight=False,
    )
    for note in plan.notes:
        console.print(f"note: {escape(note)}", highlight=False)
    if plan.fits:
        console.print("[bold]Fits[/bold], by this estimate.", highlight=False)
        return
    console.print("[bold]Does not fit.[/bold] Each of these saves so much by itself (GB):", highlight=False)
    for change in plan.changes:
        remarks = ["then it fits"] * change.fits + [change.needs] * bool(change.needs)
        end = f"  ({'; '.join(remarks)})" if remarks else ""
        shown = escape(f"  {_gb(change.saves):>8}  {_overrides(change.settings)}{end}")
        console.print(shown, highlight=False, soft_wrap=True)
    if plan.together is None:
        if not any(change.fits for change in plan.changes):
            console.print("None is enough alone, and none can be combined.", highlight=False)
        return
    saved = f"save {_gb(plan.together.saves)} GB"
    outcome = f"these together {saved}, and it fits:" if plan.together.fits else f"nor are all together, which {saved}:"
    console.print(f"None is enough alone; {outcome}", highlight=False)
    if plan.together.needs:
        console.print(escape(f"  ({plan.together.needs})"), highlight=False)
    console.print(escape(f"  {_overrides(plan.together.settings)}"), highlight=False, soft_wrap=True)


def _overrides(settings: tuple[str, ...]) -> str:
    """Settings as they are pasted into a shell."""
    return " ".join(f'"{one}"' if set("[*'") & set(one) else one for one in settings)


def _gb(size: int) -> str:
    return f"{size / 1e9:,.2f}"


def _short(count: int) -> str:
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.3g}{name}"
    return str(count)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
