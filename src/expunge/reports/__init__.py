"""Reports: one self-contained HTML page over one or many runs, and the tables that the terminal shows."""

from __future__ import annotations

from expunge.reports.load import ReportError, Run, find_runs, load_run, load_runs
from expunge.reports.page import report

__all__ = ["ReportError", "Run", "find_runs", "load_run", "load_runs", "report"]
