"""What a metric is: a pure function of one model's outputs, with what it needs from a row and from controls.

A file in ``evaluation/metrics/`` is one metric, found by its name, and exposes it as ``METRIC``. Code that
runs models or writes scores goes through the two classes here and knows no metric by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from expunge.errors import ControlError
from expunge.evaluation.types import RowOutputs, Score, SetOutputs
from expunge.evaluation.uncertainty import bootstrap_stderr, mean_stderr

Need = Literal["answer", "paraphrase", "wrong", "greedy", "greedy_under_target", "judged", "answer_judged"]
Control = Literal["target", "retrained"]

UNDEFINED = float("nan")  # per-row value of a row that a metric says nothing about


class UndefinedScoreError(ControlError):
    """No row of a set defines the metric (no wrong answers, only empty answers, ..)."""


def _same(values: np.ndarray) -> np.ndarray:
    return values


@dataclass(frozen=True)
class SetMetric:
    """A score of one set of rows.

    ``per_row`` gives the value that is kept beside each example, NaN where the row does not define it. The
    set's score is the mean of ``fold(values)`` with standard error sd/sqrt(n). A metric that is no mean gives
    ``parts`` (k numbers a row) and ``combine`` (column means [.., k] -> [..]) and gets its standard error by
    bootstrap over rows. ``key`` is what the score is called after its set's name (``<set>_<key>``), the
    metric's own name by default.
    """

    name: str
    version: int
    summary: str
    needs: frozenset[Need]
    per_row: Callable[[RowOutputs], float]
    fold: Callable[[np.ndarray], np.ndarray] = _same
    parts: Callable[[RowOutputs], tuple[float, ...]] | None = None
    combine: Callable[[np.ndarray], np.ndarray] | None = None
    key: str = ""
    paper: str = ""
    undefined: str = "no row of the set defines it"

    @property
    def label(self) -> str:
        return self.key or self.name

    @property
    def controls(self) -> frozenset[Control]:
        return frozenset({"target"}) if "greedy_under_target" in self.needs else frozenset()

    def values(self, outputs: SetOutputs) -> np.ndarray:
        """[n] float64 per-row values, before folding."""
        return np.array([self.per_row(row) for row in outputs.rows], dtype=np.float64)

    def examined(self, outputs: SetOutputs) -> tuple[np.ndarray, Sequence[Mapping[str, Any] | None]]:
        """:meth:`values`, and what else a sample is to say of each row (None: nothing); empty where the metric has no
        more to say of any."""
        return self.values(outputs), ()

    def score(self, outputs: SetOutputs, values: np.ndarray | None = None) -> Score:
        """The set's score over the rows that define it; raises :class:`UndefinedScoreError` where none does."""
        values = self.values(outputs) if values is None else values
        defined = ~np.isnan(values)
        count = int(defined.sum())
        if count == 0:
            raise UndefinedScoreError(f"{outputs.name}_{self.label} has no value: {self.undefined}.")
        if self.parts is None or self.combine is None:
            folded = self.fold(values[defined])
            return Score(float(folded.mean()), mean_stderr(folded), count, self.version)
        rows = [row for row, keep in zip(outputs.rows, defined, strict=True) if keep]
        table = np.array([self.parts(row) for row in rows], dtype=np.float64)
        value = float(self.combine(table.mean(axis=0)))
        return Score(value, bootstrap_stderr(table, self.combine), count, self.version)

    def describe(self) -> dict[str, Any]:
        """For listings: name, version, what it says, what it needs."""
        return _describe(self, sorted(self.needs))


@dataclass(frozen=True)
class ModelValues:
    """One model's per-row values by score key (``forget_truth_ratio``), as computed (``raw``) and as the
    set's mean takes them (``folded``), NaN where a row defines none; ``outcomes`` is what else there is to say of each
    row, for metrics that have more to say."""

    raw: Mapping[str, np.ndarray]
    folded: Mapping[str, np.ndarray]
    outcomes: Mapping[str, Sequence[Mapping[str, Any] | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class SuiteMetric:
    """A score made of other scores' per-row values: ``requires`` names their keys, ``compute(own, other)`` gets the
    model's own values and those of the control that ``against`` names (None where that was not scored; ``controls``
    lists those without which the score is left out)."""

    name: str
    version: int
    summary: str
    requires: tuple[str, ...]
    compute: Callable[[ModelValues, ModelValues | None], Score]
    controls: frozenset[Control] = field(default_factory=frozenset)
    paper: str = ""
    against: Control = "retrained"

    def describe(self) -> dict[str, Any]:
        """For listings: name, version, what it says, what it needs."""
        return _describe(self, list(self.requires))


Metric = SetMetric | SuiteMetric


def _describe(metric: Metric, needs: list[str]) -> dict[str, Any]:
    return {
        "name": metric.name,
        "version": metric.version,
        "summary": metric.summary,
        "needs": needs,
        "controls": sorted(metric.controls),
        "paper": metric.paper,
    }
