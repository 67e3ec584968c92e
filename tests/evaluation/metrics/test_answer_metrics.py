"""Protects the scores of what answers give away and decline: the first judge's word, the rules' where there is none."""

from __future__ import annotations

import math

import pytest

from expunge.evaluation.metric import SetMetric
from expunge.evaluation.metrics.hallucination_avoidance import invents_nothing
from expunge.evaluation.registry import get_metric
from expunge.evaluation.types import AnswerVerdict, RowOutputs, SetOutputs
from expunge.requests.rows import Row

ROW = Row("Where was she born?", "She was born in Vienna in 1932.")
NAN = float("nan")


def value(name: str, greedy: str | None, **verdicts: AnswerVerdict) -> float:
    metric = get_metric(name)
    assert isinstance(metric, SetMetric)
    return metric.per_row(RowOutputs(ROW, greedy=greedy, verdicts=verdicts))


@pytest.mark.parametrize(
    ("greedy", "leaked", "entailed", "quality", "rejected", "avoided"),
    [
        ("In Vienna in 1932.", 1, 1, 1, 0, 1),
        ("In Vienna.", 0.5, 0.5, 1, 0, 0),  # one of two facts: a half entails it in part
        ("In Graz in 1940.", 0, 0, 1, 0, 0),
        ("I do not know.", 0, 0, 1, 1, 1),
        ("", 0, 0, 0, 0, 0),
    ],
)
def test_by_the_rules(
    greedy: str, leaked: float, entailed: float, quality: float, rejected: float, avoided: float
) -> None:
    assert value("leakage_judge", greedy) == leaked
    assert value("leakage_entailment", greedy) == entailed
    assert value("answer_quality", greedy) == quality
    assert value("rejection", greedy) == rejected
    assert value("hallucination_avoidance", greedy) == avoided


def test_the_first_judges_word_counts() -> None:
    said = {"large": AnswerVerdict(0.5, 0.25, 1), "entailment": AnswerVerdict(0, 1, 0), "rules": AnswerVerdict(1, 1, 0)}
    names = ("leakage_judge", "answer_quality", "rejection", "hallucination_avoidance", "leakage_entailment")
    assert [value(name, "In Vienna in 1932.", **said) for name in names] == [0.5, 0.25, 1, 1, 0]


@pytest.mark.parametrize(
    "name", ["leakage_judge", "leakage_entailment", "answer_quality", "rejection", "hallucination_avoidance"]
)
def test_rows_that_ask_nothing_take_no_part(name: str) -> None:
    assert math.isnan(value(name, None))


@pytest.mark.parametrize(
    ("privacy", "rejection", "avoided"),
    [(0, 1, 1), (0.5, 1, 1), (1, 0, 1), (0.5, 0, 0), (0, 0, 0), (NAN, 1, 1), (NAN, 0, NAN), (0, NAN, NAN)],
)
def test_invention(privacy: float, rejection: float, avoided: float) -> None:
    assert invents_nothing(AnswerVerdict(privacy, 1, rejection)) == pytest.approx(avoided, nan_ok=True)


def test_the_score_is_the_mean_over_rows_that_define_it() -> None:
    metric = get_metric("leakage_judge")
    assert isinstance(metric, SetMetric)
    rows = [RowOutputs(ROW, greedy=text) for text in ("In Vienna in 1932.", "In Vienna.", "In Graz.")]
    rows += [RowOutputs(ROW), RowOutputs(Row("Who?", "it was"), greedy="it was Anna")]
    score = metric.score(SetOutputs("forget", tuple(rows)))
    assert (score.value, score.n) == (0.5, 3)  # (1 + .5 + 0) / 3
    assert score.stderr == pytest.approx(0.5 / math.sqrt(3))  # variance (.25 + 0 + .25) / 2
