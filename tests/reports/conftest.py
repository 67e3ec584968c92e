"""Fixtures of the report tests: finished run folders, made without a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from .fake_runs import write_comparison, write_run, write_seeds


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "npo")


@pytest.fixture
def comparison(tmp_path: Path) -> Path:
    return write_comparison(tmp_path / "demo")


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    return write_seeds(tmp_path / "seeds")
