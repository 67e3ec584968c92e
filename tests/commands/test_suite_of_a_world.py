"""Protects the rows that an embedded world's own suite takes: the world's, or an error before anything is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from expunge.commands import forget as command
from expunge.errors import ConfigError

ASKED = r"Set suite.name=tofu suite.data=world:authors/tofu suite.split=forget01 .* by suite.data\."


@pytest.mark.parametrize(
    "given", [{"model": "world:authors", "forget": "a.jsonl"}, {"model": "./a", "world": "authors"}]
)
def test_a_suite_without_the_worlds_rows(given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=ASKED):
        command.forget(**given, suite="tofu", out=tmp_path / "out")
    with pytest.raises(ConfigError, match=ASKED):
        values = {"model": {"path": given["model"]}, "request": {"world": "authors"}, "suite": {"name": "tofu"}}
        command.run({**values, "method": {"name": "npo"}}, out=tmp_path / "out")


def test_rows_that_are_named_and_other_suites_are_taken() -> None:
    for suite, overrides in (("tofu", ["suite.data=world:authors/tofu"]), ("request", []), ("skills", [])):
        config = command.forget_config(
            "world:authors",
            method="npo",
            retrained=None,
            suite=suite,
            seeds=None,
            overrides=overrides,
            world="authors",
        )
        command.check_suite(config)
