"""Protects discovery: every file in evaluation/metrics is a metric of that name; unknown ones get a suggestion."""

from __future__ import annotations

from pathlib import Path

import pytest

from expunge.errors import UnknownNameError
from expunge.evaluation import metrics
from expunge.evaluation.registry import get_metric, metric_names


def test_every_file_is_a_metric_of_its_name() -> None:
    stems = {path.stem for path in Path(metrics.__path__[0]).glob("*.py")} - {"__init__"}
    assert stems and stems <= set(metric_names())
    for stem in stems:
        found = get_metric(stem)
        assert found.name == stem
        assert found.version >= 1
        assert found.summary.endswith(".")
        assert found.describe()["name"] == stem


def test_unknown_metric_gets_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match=r"no metric is called 'ruge'. Did you mean 'rouge'"):
        get_metric("ruge")
    with pytest.raises(UnknownNameError):
        get_metric("__init__")
