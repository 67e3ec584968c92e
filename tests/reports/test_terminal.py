"""Protects the terminal tables: at 80 columns every name and number can be read whole."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from expunge.reports import find_runs, load_run, load_runs
from expunge.reports.numbers import NONE, duration, number, stderr
from expunge.reports.terminal import comparison_table, scores_table, verdict_panel

from .fake_runs import scores, write_run


def lines(shown: RenderableType, width: int = 80) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO(), color_system=None)
    console.print(shown)
    text = console.export_text()
    assert all(len(line) <= width for line in text.splitlines()) and "…" not in text
    return [line.rstrip() for line in text.splitlines()]


def row(shown: list[str], name: str) -> list[str]:
    return next(line for line in shown if line.strip().startswith(name)).replace(name, "", 1).split()


def test_scores_fit_eighty_columns() -> None:
    shown = lines(scores_table(scores()))
    assert row(shown, "forget prob") == ["0.921", "±0.017", "0.00110", "±0.0021", "0.00120", "±0.0022"]
    assert row(shown, "forget quality p") == ["2.10e-4", "0.767", NONE]
    assert "11 more metrics" in shown[-1]


def test_every_metric_on_request() -> None:
    shown = lines(scores_table(scores(), every=True))
    assert any("world facts truth ratio" in line for line in shown)
    # A title, an empty line, a head, a rule and 19 metrics, a line each.
    assert len([line for line in shown if line.strip()]) == 3 + 19


def test_without_a_retrained_model_there_is_no_such_column() -> None:
    shown = lines(scores_table(scores(retrained=False)))
    assert "retrained" not in " ".join(shown[:5]) and row(shown, "metric") == ["target", "erased"]


def test_seeds_show_their_range(seeds: Path) -> None:
    shown = lines(scores_table(load_run(seeds).scores))
    at = next(i for i, line in enumerate(shown) if line.strip().startswith("forget quality p"))
    assert "0.767" in shown[at] and "0.58..0.92" in shown[at + 1]


def test_runs_stand_between_their_controls(comparison: Path) -> None:
    shown = lines(comparison_table(load_runs(find_runs(comparison))))
    assert row(shown, "npo") == ["0.00110", "0.887", "0.622", "0.767", "✓", "as", "never", "trained"]
    assert row(shown, "grad_ascent")[-2:] == ["✗", "broken"]
    names = [line.split()[0] for line in shown if line.startswith(" ") and line.strip() and "─" not in line]
    assert names[2:] == ["target", "grad_ascent", "grad_diff", "npo", "retrained"]


def test_a_long_name_wraps_and_other_controls_follow(comparison: Path, tmp_path: Path) -> None:
    runs = load_runs(find_runs(comparison))
    other = load_run(write_run(tmp_path / "other", retrained=False))
    shown = lines(comparison_table([replace(runs[0], label="concept_vector_ablation"), other]))
    assert sum(line.strip().startswith("target") for line in shown) == 2
    assert sum(line.strip().startswith("retrained") for line in shown) == 1


def test_the_panel_says_it_in_words() -> None:
    text = " ".join(lines(verdict_panel(scores(), name="npo")))
    assert "Verdict on npo" in text and "✓ Indistinguishable from never trained" in text
    assert "Removal." in text and "40 rows prove little" in text and "the request names no subjects" in text


def test_scores_are_left_out_a_line_for_each_reason() -> None:
    found = scores()
    found["verdict"]["left_out"] = {"forget_rouge": "no text", "forget_leakage": "no text", "forget_quality": "no twin"}
    shown = [line.strip("\u2502 ") for line in lines(verdict_panel(found)) if "Left out" in line]
    assert shown == ["Left out: forget ROUGE-L, forget leakage (no text)", "Left out: forget quality p (no twin)"]


def test_a_suites_own_scores_lead() -> None:
    entry = {"value": 0.5, "stderr": None, "n": 2, "version": 1}
    keys = ("forget_entropy", "forget_probability", "hard_retain_leakage", "forget_rejection")
    found = {**scores(), "suite": "wpu", "rows": {"target": dict.fromkeys(keys, entry)}}
    shown = [line.strip().rsplit(" ", 1)[0].strip() for line in lines(scores_table(found)) if "0.5" in line]
    # its own two in its order, then what every suite shows; the variety of words is left to the report
    assert shown == ["forget rejection", "hard leakage", "forget prob"]
    known = lines(scores_table({**found, "suite": "not installed"}))
    assert not any("rejection" in line for line in known)


def test_markup_in_names_is_text(run_folder: Path) -> None:
    hostile = scores()
    hostile["verdict"]["sentence"] = "[red]not markup[/red] [/]"
    hostile["suite"] = "[bold]tofu"
    assert "[red]not markup[/red] [/]" in " ".join(lines(verdict_panel(hostile, name="[x]")))
    assert "[bold]tofu" in lines(scores_table(hostile))[0]
    assert any("[b]" in line for line in lines(comparison_table([replace(load_run(run_folder), label="[b]")])))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.92345, "0.923"),
        (0.9, "0.900"),
        (0.99996, "1.00"),
        (0.0012345, "0.00123"),
        (0.00021, "2.10e-4"),
        (19.04, "19.0"),
        (12345.6, "12,300"),
        (1.5e9, "1.50e9"),
        (0.0, "0"),
        (-0.5, "-0.500"),
        (40, "40"),
        (float("nan"), NONE),
        (None, NONE),
        (float("inf"), "∞"),
    ],
)
def test_three_significant_digits(value: float | None, text: str) -> None:
    assert number(value) == text


def test_errors_and_durations() -> None:
    assert (stderr(0.01706), stderr(None)) == ("±0.017", "")
    assert [duration(s) for s in (0.42, 18.31, 185.2, 7800)] == [
        "0.420 s",
        "18.3 s",
        "3 min 05 s",
        "2 h 10 min",
    ]
