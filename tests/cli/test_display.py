"""Protects what the terminal shows during a run: bars on a terminal, lines in a log, nothing on standard output."""

from __future__ import annotations

import logging

import pytest
from rich.console import Console

from expunge.cli import display


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(display, "time", made)
    return made


def test_without_a_terminal_a_line_every_twenty_seconds(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    with display.progress_display() as progress:
        for done in range(1, 51):
            clock.now += 1.0
            progress(done, 50, "training")
    written = capsys.readouterr()
    assert written.out == ""
    # The first call, at second 1, starts the clock; lines follow 20 and 40 seconds later.
    assert written.err == "training: 21 of 50\ntraining: 41 of 50\n"


def test_what_is_quick_says_nothing(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    with display.progress_display() as progress:
        for what in ("scoring", "generating", "scoring again"):
            for done in range(10):
                clock.now += 1.0
                progress(done, 10, what)
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_a_bar_that_is_gone_at_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        display, "error_console", lambda: Console(stderr=True, force_terminal=True, width=80, legacy_windows=False)
    )
    with display.progress_display() as progress:
        progress(1, 4, "training")
        progress(4, 4, "training")
        progress(1, 2, "erased: generating")
    written = capsys.readouterr()
    assert written.out == ""
    assert "erased: generating" in written.err
    assert written.err.endswith("\x1b[2K")  # the last line is wiped


def test_an_error_in_the_middle_leaves_the_terminal_clean(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        display, "error_console", lambda: Console(stderr=True, force_terminal=True, width=80, legacy_windows=False)
    )
    with pytest.raises(ValueError, match="stop"), display.progress_display() as progress:
        progress(1, 4, "training")
        raise ValueError("stop")
    assert "\x1b[?25h" in capsys.readouterr().err  # the cursor is shown again


@pytest.mark.parametrize(
    ("verbosity", "ours", "theirs"),
    [(0, logging.WARNING, logging.ERROR), (1, logging.INFO, logging.ERROR), (2, logging.INFO, logging.INFO)],
)
@pytest.mark.usefixtures("expunge_cli")  # puts the logging back
def test_verbosity(verbosity: int, ours: int, theirs: int) -> None:
    display.set_logging(verbosity)
    assert logging.getLogger("expunge").getEffectiveLevel() == ours
    assert logging.getLogger("transformers_stand_in").getEffectiveLevel() == theirs


def test_json_keeps_every_letter(capsys: pytest.CaptureFixture[str]) -> None:
    display.print_json({"name": "Łódź"})
    assert capsys.readouterr().out == '{\n  "name": "Łódź"\n}\n'


@pytest.mark.usefixtures("expunge_cli")
def test_log_lines_go_where_standard_error_goes_now(capsys: pytest.CaptureFixture[str]) -> None:
    display.set_logging(0)
    with display.progress_display():  # on a terminal it takes standard error over while it draws
        logging.getLogger("expunge").warning("few steps")
    logging.getLogger("expunge").info("not asked for")
    assert capsys.readouterr() == ("", "WARNING expunge: few steps\n")
