"""Fixtures that several folders of tests share."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

# Read when torch loads: tests run side by side, one thread each.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@dataclass(frozen=True)
class Tiny:
    """Folders of a target, of the model it was trained from and of its retrained twin, and the files of a request."""

    base: Path
    target: Path
    twin: Path
    forget: Path
    retain: Path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A tiny Llama that knows eight forget rows and sixteen retain rows, and one that knows the latter alone."""
    import tiny_models
    import zoo
    from expunge.models.quiet import quiet

    folder = tmp_path_factory.mktemp("tiny")
    forget, retain = tiny_models.tofu("forget01_perturbed", 8), tiny_models.tofu("retain_perturbed", 16)
    with quiet():
        base = zoo.save("llama", folder / "base")
    return Tiny(
        base=base,
        target=tiny_models.save_trained("llama", folder / "target", forget + retain),
        twin=tiny_models.save_trained("llama", folder / "twin", retain),
        forget=tiny_models.write_rows(folder / "forget.jsonl", forget),
        retain=tiny_models.write_rows(folder / "retain.jsonl", retain),
    )


@dataclass(frozen=True)
class Ran:
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str


@pytest.fixture
def expunge_cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Ran]]:
    """Run ``expunge`` with these arguments in this process, 80 columns wide, as its entry point does."""
    from expunge.cli.main import main

    loggers = [logging.getLogger(name) for name in (None, "expunge")]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    environment = dict(os.environ)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["expunge", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        written = capsys.readouterr()
        return Ran(code, written.out, written.err)

    with warnings.catch_warnings():
        yield run
    for logger, level, handlers in before:  # as --verbose found them
        logger.setLevel(level)
        logger.handlers[:] = handlers
    os.environ.clear()
    os.environ.update(environment)
