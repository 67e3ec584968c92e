"""Protects sparse distributions: what is kept, what that loses, and the distance to them without making them dense."""

from __future__ import annotations

import math

import pytest
import torch

from expunge.teachers.sparse_rows import TOP_K, SparseRows, divergence, sparse_rows


def drawn(rows: int, vocabulary: int, *, scale: float = 2.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(rows, vocabulary, generator=generator) * scale).softmax(-1)


def test_the_likeliest_are_kept_and_the_rest_is_spread_evenly() -> None:
    # Of 0.5, 0.25, 0.15, 0.1 two are kept; the others share 0.25. float16 has 11 bits: 3 digits and a half.
    kept, lost = sparse_rows(torch.tensor([[0.15, 0.5, 0.1, 0.25]]), 2)
    assert kept.token_ids.tolist() == [[1, 3]]
    assert kept.dense()[0].tolist() == pytest.approx([0.125, 0.5, 0.125, 0.25], rel=1e-3)
    # KL = 0.15 log(0.15/0.125) + 0.1 log(0.1/0.125) = 0.02735 - 0.02231 = 0.00503
    by_hand = 0.15 * math.log(0.15 / 0.125) + 0.1 * math.log(0.1 / 0.125)
    assert float(lost) == pytest.approx(by_hand, abs=1e-4)


def test_what_was_lost_is_the_divergence_of_the_dense_rows() -> None:
    probs = drawn(6, 1000)
    kept, lost = sparse_rows(probs, 50)
    dense = kept.dense()
    torch.testing.assert_close(dense.sum(-1), torch.ones(6))
    exact = (probs.double() * (probs.double().log() - dense.double().log())).sum(-1)
    torch.testing.assert_close(lost.double(), exact, atol=1e-5, rtol=1e-3)
    assert float(lost.min()) > 1e-3  # there is something to lose


def test_a_vocabulary_no_larger_than_k_loses_rounding_alone() -> None:
    kept, lost = sparse_rows(drawn(4, 20), 300)
    assert (kept.k, kept.left_out) == (20, 0)
    assert float(lost.abs().max()) < 1e-4
    torch.testing.assert_close(kept.dense(), drawn(4, 20), atol=1e-3, rtol=2e-3)


@pytest.mark.parametrize("vocabulary", [32_000, 65_536, 70_000])
def test_ids_of_any_size_come_back(vocabulary: int) -> None:
    probs = torch.zeros(1, vocabulary)
    last = vocabulary - 1
    probs[0, last], probs[0, 5] = 0.75, 0.25
    kept, _ = sparse_rows(probs, 2)
    assert kept.token_ids.tolist() == [[last, 5]]
    assert kept.dense()[0, [5, last]].tolist() == pytest.approx([0.25, 0.75], rel=1e-3)
    assert kept.ids.element_size() == (2 if vocabulary <= 65_536 else 4)


def test_a_row_takes_at_most_a_hundredth_of_dense_at_32k() -> None:
    kept, _ = sparse_rows(drawn(1, 32_000), TOP_K)
    held = sum(one.numel() * one.element_size() for one in (kept.ids, kept.logps, kept.tail))
    assert kept.bytes_a_row == held == 300 * 4 + 4
    assert held + 4 <= 0.01 * 4 * 32_000  # with its place


def test_divergence_by_hand() -> None:
    # Teacher 0.5 on token 0, 0.5 over tokens 1 and 2; the student 1/2, 1/3, 1/6.
    # KL = 0.25 log(0.25/(1/3)) + 0.25 log(0.25/(1/6)) = 0.25 log(9/8)
    teacher = SparseRows(
        torch.tensor([[0]], dtype=torch.int16), torch.tensor([[0.5]]).log().half(), torch.tensor([0.5]), 3
    )
    logits = torch.tensor([[1 / 2, 1 / 3, 1 / 6]]).log()
    assert float(divergence(logits, teacher)) == pytest.approx(0.25 * math.log(9 / 8), abs=1e-4)


def test_divergence_is_that_of_the_dense_rows_and_so_is_its_gradient() -> None:
    teacher, _ = sparse_rows(drawn(5, 40), 7)
    logits = torch.randn(5, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    dense = teacher.dense().double()
    exact = torch.nn.functional.kl_div(logits.log_softmax(-1), dense, reduction="none").sum(-1)
    found = divergence(logits, teacher)
    torch.testing.assert_close(found, exact, atol=1e-6, rtol=1e-5)
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    torch.testing.assert_close(gradient, logits.softmax(-1) - dense, atol=1e-6, rtol=1e-5)


def test_one_token_rows_make_cross_entropy() -> None:
    teacher = SparseRows.of_tokens(torch.tensor([2, 0]), 4)
    logits = torch.randn(2, 4, generator=torch.Generator().manual_seed(2))
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([2, 0]), reduction="none")
    torch.testing.assert_close(divergence(logits, teacher), expected)
    assert teacher.dense().tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
