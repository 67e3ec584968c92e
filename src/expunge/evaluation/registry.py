"""Finds metrics by file name, and outsiders' by entry point. Listing names imports none of them."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

from expunge.errors import ConfigError, UnknownNameError, did_you_mean
from expunge.evaluation.metric import Metric, SetMetric, SuiteMetric

GROUP = "expunge.metrics"
_FOLDER = Path(__file__).parent / "metrics"


def metric_names() -> list[str]:
    """Every metric there is, sorted: one a file in ``evaluation/metrics``, plus those of other packages."""
    own = {path.stem for path in _FOLDER.glob("*.py") if not path.stem.startswith("_")}
    return sorted(own | {point.name for point in entry_points(group=GROUP)})


@cache
def get_metric(name: str) -> Metric:
    """The metric called ``name``; an unknown one is an :class:`UnknownNameError` with a suggestion."""
    if (_FOLDER / f"{name}.py").is_file() and not name.startswith("_"):
        found = getattr(import_module(f"expunge.evaluation.metrics.{name}"), "METRIC", None)
    else:
        points = entry_points(group=GROUP, name=name)
        if not points:
            raise UnknownNameError(f"no metric is called '{name}'. {did_you_mean(name, metric_names())}")
        found = next(iter(points)).load()
    if not isinstance(found, SetMetric | SuiteMetric):
        raise ConfigError(f"metric '{name}' is {type(found).__name__}: its file must set METRIC to a metric.")
    return found
