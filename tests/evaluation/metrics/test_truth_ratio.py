"""Protects the truth ratio: geometric mean over wrong answers, the paraphrase below, both foldings, 1/(1+R)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from expunge.evaluation.metrics import kept_truth_ratio, truth_probability
from expunge.evaluation.metrics.truth_ratio import METRIC, fold_forget, row_truth_ratio
from expunge.evaluation.types import RowOutputs
from expunge.requests.rows import Row
from made_outputs import answer, outputs_row, outputs_set


def test_geometric_mean_of_wrong_over_paraphrased_right() -> None:
    # wrong 0.2 and 0.05: geometric mean sqrt(0.01) = 0.1 (arithmetic 0.125); paraphrase 0.4: R = 0.25
    row = outputs_row(probability=0.9, wrong=(0.2, 0.05), paraphrase=0.4)
    assert row_truth_ratio(row) == pytest.approx(0.25)


def test_plain_answer_where_there_is_no_paraphrase() -> None:
    # 0.1 / 0.5 = 0.2
    assert row_truth_ratio(outputs_row(probability=0.5, wrong=(0.1,))) == pytest.approx(0.2)


def test_each_answer_is_normalised_by_its_own_length() -> None:
    # wrong (0.1, 0.9): sqrt(0.09) = 0.3; right (0.6,): 0.6; R = 0.5
    row = RowOutputs(Row("q", "a"), answer=answer(0.6), wrong=(answer(0.1, 0.9),))
    assert row_truth_ratio(row) == pytest.approx(0.5)


def test_no_wrong_answers_is_undefined() -> None:
    assert math.isnan(row_truth_ratio(outputs_row()))


def test_extreme_ratios_stay_finite() -> None:
    row = outputs_row(probability=0.5, wrong=(0.5,))
    row.wrong[0].logps[:] = -5000.0
    assert 0 < row_truth_ratio(row) < 1e-300
    row.wrong[0].logps[:] = 0.0
    assert row.answer is not None
    row.answer.logps[:] = -5000.0
    assert 1e300 < row_truth_ratio(row) < math.inf


def test_foldings() -> None:
    # R 0.25, 1, 4: min(R, 1/R) = 0.25, 1, 0.25; max(0, 1 - R) = 0.75, 0, 0
    ratios = np.array([0.25, 1.0, 4.0])
    assert fold_forget(ratios).tolist() == [0.25, 1.0, 0.25]
    assert kept_truth_ratio.fold_kept(ratios).tolist() == [0.75, 0.0, 0.0]


def test_set_scores() -> None:
    rows = [outputs_row(probability=0.4, wrong=(p,)) for p in (0.1, 0.8)] + [outputs_row()]
    # R = 0.25 and 2: forget (0.25 + 0.5) / 2 = 0.375; kept (0.75 + 0) / 2 = 0.375; 1/(1+R) (0.8 + 1/3) / 2
    forget = METRIC.score(outputs_set("forget", rows))
    kept = kept_truth_ratio.METRIC.score(outputs_set("retain", rows))
    share = truth_probability.METRIC.score(outputs_set("forget", rows))
    assert forget.value == pytest.approx(0.375)
    assert kept.value == pytest.approx(0.375)
    assert share.value == pytest.approx((0.8 + 1 / 3) / 2)
    assert forget.n == kept.n == share.n == 2  # the row without wrong answers takes no part
    assert kept_truth_ratio.METRIC.label == METRIC.label == "truth_ratio"


def test_samples_keep_the_ratio_unfolded() -> None:
    values = METRIC.values(outputs_set("forget", [outputs_row(probability=0.2, wrong=(0.8,))]))
    assert values.tolist() == pytest.approx([4.0])
