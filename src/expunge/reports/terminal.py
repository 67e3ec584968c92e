"""The same results in a terminal: tables and a panel that read well at 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from expunge.reports.groups import group_runs
from expunge.reports.load import Run
from expunge.reports.names import EFFECTS, SHORT_VERDICTS, TONES, leading, metric_name, metric_order
from expunge.reports.numbers import NONE, number, stderr

if TYPE_CHECKING:
    from rich.panel import Panel
    from rich.table import Table

_STYLES = {"good": "green", "caution": "yellow", "bad": "red", "neutral": "dim"}
_MARKS = {"good": "✓", "caution": "!", "bad": "✗", "neutral": NONE}
_COMPARED = {
    "forget_probability": "forget\nprob",
    "retain_probability": "retain\nprob",
    "model_utility": "model\nutility",
    "forget_quality": "forget\nquality",
    "harmful_harmful_rate": "harmful\nrate",
    "harmful_holdout_harmful_rate": "held-out\nharmful",
    "normal_perplexity": "normal\nperpl.",
    "normal_exact": "normal\nright",
    "forgotten_left": "forgotten\nleft",
    "least_kept": "least\nkept",
}


def scores_table(scores: dict[str, Any], *, every: bool = False) -> Table:
    """One run's scores, a metric a row: target, erased, retrained (those there are), with standard errors, or
    the lowest and highest seed. ``scores`` is the content of ``scores.json``; ``every`` shows all metrics,
    else those that :func:`~expunge.reports.names.leading` names."""
    from rich.text import Text

    rows = scores["rows"]
    models = [model for model in ("target", "erased", "retrained") if model in rows]
    keys = metric_order(list(dict.fromkeys(key for model in models for key in rows[model])))
    table = plain_table(f"Scores, suite {scores['suite']}")
    table.add_column("metric", style="bold", overflow="fold", min_width=18)
    for model in models:
        table.add_column(model, justify="right", no_wrap=True)
    shown = keys if every else leading(keys, scores)
    for key in shown:
        table.add_row(Text(metric_name(key).short), *(_score(rows[model].get(key)) for model in models))
    if len(shown) < len(keys):
        table.caption = f"{len(keys) - len(shown)} more metrics are in scores.json and in the report."
    return table


def comparison_table(runs: Sequence[Run]) -> Table:
    """Several runs, a run a row, between the target and the retrained model that they share; runs with other
    controls follow under their own. Columns: probabilities, utility, forget quality (p) and the verdict."""
    from rich.text import Text

    listed = list(runs)
    found = {key for run in listed for row in run.rows.values() for key in row}
    columns = [key for key in _COMPARED if key in found]
    table = plain_table("Runs beside their controls")
    table.add_column("", style="bold", overflow="fold", min_width=9)
    for key in columns:
        table.add_column(_COMPARED[key], justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold", min_width=16)

    def values(row: dict[str, dict[str, Any]]) -> list[Text]:
        return [Text(number(float(row[key]["value"])) if key in row else NONE) for key in columns]

    for at, group in enumerate(group_runs(listed)):
        if at:
            table.add_section()
        if group.target is not None:
            table.add_row(Text("target"), *values(group.target), Text(""), style="dim")
        for position in group.runs:
            run = listed[position]
            if "erased" in run.rows:
                table.add_row(Text(run.label), *values(run.rows["erased"]), _verdict(run.verdict))
        if group.retrained is not None:
            table.add_row(Text("retrained"), *values(group.retrained), Text(""), style="dim")
    return table


def verdict_panel(scores: dict[str, Any], *, name: str = "") -> Panel:
    """The verdict in plain words: the label, the sentence, what it rests on, and whether it is removal or
    suppression. ``scores`` is the content of ``scores.json``; ``name`` (the method's) is put in the panel's
    title."""
    from rich.console import Group, RenderableType
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    verdict = scores["verdict"]
    label = str(verdict.get("label", ""))
    tone = TONES.get(label, "neutral")
    body: list[RenderableType] = [
        Text(f"{_MARKS[tone]} {label[:1].upper()}{label[1:]}", style=f"bold {_STYLES[tone]}"),
        Text(str(verdict.get("sentence", ""))),
    ]
    # A grid, so that a reason's second line stands under its first.
    reasons = Table.grid(padding=(0, 1))
    for reason in verdict.get("reasons") or []:
        reasons.add_row(Text(" •"), Text(str(reason)))
    body.append(reasons)
    effect = str(verdict.get("effect", ""))
    if effect:
        name_of_effect, meaning = EFFECTS.get(effect, (effect, ""))
        body.append(Text.assemble((f"{name_of_effect}. ", "bold"), meaning))
    left_out: dict[str, list[str]] = {}
    for metric, reason in (verdict.get("left_out") or {}).items():
        left_out.setdefault(reason, []).append(metric_name(metric).short)
    for reason, metrics in left_out.items():
        body.append(Text(f"Left out: {', '.join(metrics)} ({reason})", style="dim"))
    title = Text(f"Verdict on {name}" if name else "Verdict", style="bold")
    return Panel(Group(*body), title=title, title_align="left", border_style=_STYLES[tone], padding=(0, 1))


def plain_table(title: str) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    return Table(title=Text(title), title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)


def _score(entry: dict[str, Any] | None) -> Any:
    from rich.text import Text

    if entry is None:
        return Text(NONE, style="dim")
    text = Text(number(float(entry["value"])))
    low, high = entry.get("min"), entry.get("max")
    if low is not None and high is not None and low != high:
        text.append(f"\n{number(float(low), 2)}..{number(float(high), 2)}", style="dim")
    elif entry.get("stderr") is not None:
        text.append(f" {stderr(entry['stderr'])}", style="dim")
    return text


def _verdict(verdict: dict[str, Any]) -> Any:
    from rich.text import Text

    label = str(verdict.get("label", ""))
    tone = TONES.get(label, "neutral")
    effect = str(verdict.get("effect", ""))
    text = Text(f"{_MARKS[tone]} {SHORT_VERDICTS.get(label, label)}", style=_STYLES[tone])
    if effect == "suppression":
        text.append("\n  suppressed", style="dim")
    return text
