"""Protects the training curves: every term of the loss and every other number that a method logs is on the page."""

from __future__ import annotations

from pathlib import Path

from expunge.reports import report
from expunge.reports.load import load_run
from expunge.reports.payload import training_curves

from .fake_runs import training, write_lines, write_run


def test_every_term_and_every_state_of_the_log_is_drawn(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    more = {"random_loss": 3.0, "divergence_loss": None, "lambda": 0.5}
    rows = [row | more if "loss" in row else row for row in training()]
    rows[0]["divergence_loss"] = 0.25  # a later row has no number: nothing is drawn there
    write_lines(folder / "training.jsonl", rows)
    curves = training_curves(0, load_run(folder))
    assert curves is not None
    assert curves["losses"] == ["loss", "forget_loss", "retain_loss", "random_loss", "divergence_loss"]
    assert curves["state"] == ["lambda"]
    (series,) = curves["series"]
    steps = list(range(5, 121, 5))
    assert series["steps"] == steps
    assert series["losses"]["random_loss"] == [3.0] * len(steps)
    assert series["losses"]["divergence_loss"] == [0.25] + [None] * (len(steps) - 1)
    assert series["state"] == {"lambda": [0.5] * len(steps)}
    page = report(folder).read_text(encoding="utf-8")
    assert "over the training steps: loss, forget loss, retain loss, random loss, divergence loss." in page
    assert 'data-chart="state" data-index="0" aria-label="lambda of' in page


def test_a_method_without_state_has_no_plot_of_it(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    curves = training_curves(0, load_run(folder))
    assert curves is not None
    assert (curves["losses"], curves["state"]) == (["loss", "forget_loss", "retain_loss"], [])
    assert 'data-chart="state"' not in report(folder).read_text(encoding="utf-8")
