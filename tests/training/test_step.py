"""Protects what a loss sees: sums by row, and means over the whole accumulated batch, whatever its split."""

from __future__ import annotations

import pytest
import torch

from expunge.errors import TrainingError
from expunge.training.step import Side, Step, Totals


def side(logps: list[float], rows: list[int], count: int, totals: Totals) -> Side:
    return Side(torch.tensor(logps), torch.tensor(rows, dtype=torch.long), count, totals)


def test_logp_sums_by_row() -> None:
    # Row 1 has no answer token in this forward; rows need not come in order.
    assert side([-1.0, -2.0, -4.0], [0, 2, 0], 3, Totals(3, 3)).logp.tolist() == [-5.0, 0.0, -2.0]


def test_means_of_the_parts_add_up_to_the_mean_of_the_whole() -> None:
    # Tokens 1, 2, 3 | 6: their mean is 12 / 4 = 3, not (2 + 6) / 2 = 4. Rows 6 | 6: (6 + 6) / 2 = 6.
    totals = Totals(tokens=4, rows=2)
    first, second = side([1.0, 2.0, 3.0], [0, 0, 0], 1, totals), side([6.0], [0], 1, totals)
    parts = first.mean_over_tokens(first.logps), second.mean_over_tokens(second.logps)
    assert [part.item() for part in parts] == [1.5, 1.5]
    assert (first.mean_over_rows(first.logp) + second.mean_over_rows(second.logp)).item() == 6.0


def test_retain_term_is_alpha_times_nll() -> None:
    retain = side([-1.0, -3.0], [0, 1], 2, Totals(2, 2))
    step = Step(side([], [], 0, Totals(1, 1)), retain)
    assert step.retain_term(0.25)["retain_loss"].item() == 0.5  # 0.25 * (1 + 3) / 2
    assert step.retain_term(0.0) == {}


def test_a_side_without_rows_gives_zeros_and_no_nan() -> None:
    empty = side([], [], 0, Totals(1, 1))
    assert empty.logp.shape == (0,)
    assert empty.mean_over_tokens(empty.logps).item() == 0.0


def test_a_reference_that_was_not_asked_for_is_an_error() -> None:
    with pytest.raises(TrainingError, match="set needs_reference = True"):
        _ = side([-1.0], [0], 1, Totals(1, 1)).reference_logp
