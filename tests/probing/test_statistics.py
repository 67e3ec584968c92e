"""Protects the streaming statistics: exact on large offsets, the same however the values are cut up."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from expunge.errors import InputError
from expunge.probing import statistics
from expunge.probing.statistics import Moments, merge_all, row_means


def values(count: int, width: int, *, offset: float = 0.0, spread: float = 1.0) -> torch.Tensor:
    """[count, width] float32, each neuron with an offset of its own."""
    generator = torch.Generator().manual_seed(count + width)
    offsets = offset * (1 + torch.arange(width) / width)
    return torch.randn((count, width), generator=generator) * spread + offsets


def test_four_values_by_hand() -> None:
    # Neuron 0: 1 3 -2 6. Mean 8/4 = 2; squared distances 1 + 1 + 16 + 16 = 34; variance 34/3; mean |x| 12/4 = 3.
    # Neuron 1: 5 5 5 5. Variance 0.
    found = Moments.of(torch.tensor([[1.0, 5], [3, 5], [-2, 5], [6, 5]]), extremes=True)
    assert found.count == 4
    assert found.mean.tolist() == [2, 5]
    assert found.variance.tolist() == pytest.approx([34 / 3, 0])
    assert found.deviation.tolist() == pytest.approx([(34 / 3) ** 0.5, 0])
    assert found.magnitude.tolist() == [3, 5]
    assert found.minimum is not None and found.minimum.tolist() == [-2, 5]
    assert found.maximum is not None and found.maximum.tolist() == [6, 5]
    assert all(getattr(found, name).dtype == torch.float64 for name in found.kept)


def test_two_sets_together_by_hand() -> None:
    # {1, 3} and {-2, 6, 8}: means 2 and 4, squares 2 and 36 + 4 + 16 = 56, together n 5, mean 16/5 = 3.2.
    # Distances to 3.2: 2.2 .2 5.2 2.8 4.8, squares 4.84 + .04 + 27.04 + 7.84 + 23.04 = 62.8; mean |x| 20/5 = 4.
    one, other = (Moments.of(torch.tensor(some)[:, None], extremes=True) for some in ([1.0, 3], [-2.0, 6, 8]))
    both = one.merged(other)
    assert (both.count, both.mean.item(), both.squares.item()) == (5, pytest.approx(3.2), pytest.approx(62.8))
    assert both.magnitude.item() == pytest.approx(4)
    assert both.minimum is not None and both.maximum is not None
    assert (both.minimum.item(), both.maximum.item()) == (-2, 8)
    nothing = Moments.none(1, extremes=True)
    assert nothing.merged(one) is one
    assert one.merged(nothing) is one


@pytest.mark.parametrize("offset", [0.0, 1e2, 1e4, -1e6])
@pytest.mark.parametrize("size", [7, 2**17])
def test_against_float64_on_large_offsets(offset: float, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 1e4 neighbouring float32 numbers are 1e-3 apart: squares of plain values would leave nothing of a variance."""
    monkeypatch.setattr(statistics, "_CPU_VALUES", size * 5)
    monkeypatch.setattr(statistics, "_LEAST_ROWS", 1)
    given = values(3000, 5, offset=offset, spread=3.0)
    exact = given.double()
    cuts = [0, 1, 2, 700, 1999, 3000]
    streamed = merge_all([Moments.of(given[begin:end]) for begin, end in pairwise(cuts)])
    for found in (streamed, Moments.of(given)):
        assert found.count == 3000
        torch.testing.assert_close(found.mean, exact.mean(0), rtol=1e-12, atol=1e-7)
        torch.testing.assert_close(found.variance, exact.var(0), rtol=1e-6, atol=0)
        torch.testing.assert_close(found.magnitude, exact.abs().mean(0), rtol=1e-6, atol=0)
    naive = (given.square().mean(0) - given.mean(0).square()) * 3000 / 2999
    error = ((naive - exact.var(0)) / exact.var(0)).abs().max()
    assert error > 0.01 if abs(offset) >= 1e4 else error < 0.1  # else this test would not show anything


def test_a_drift_between_chunks_is_part_of_the_variance() -> None:
    given = torch.cat([values(500, 3, offset=o, spread=0.01) for o in (-1e4, 3.0, 2e4)])
    found = merge_all([Moments.of(some) for some in given.split(128)])
    torch.testing.assert_close(found.variance, given.double().var(0), rtol=1e-8, atol=0)


@pytest.mark.parametrize("size", [13, 2**17])
def test_neurons_that_never_vary_have_no_variance(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_CPU_VALUES", 3 * size)
    monkeypatch.setattr(statistics, "_LEAST_ROWS", 1)
    constant = torch.tensor([0.1, -7.3e5, 0.0])
    still = merge_all([Moments.of(constant.expand(count, 3)) for count in (1000, 77, 1, 4999)])
    assert still.variance.tolist() == [0, 0, 0]
    assert still.mean.tolist() == constant.tolist()
    # one value in 1001 that is the next float32 number: its variance is the gap squared times 1/1001
    nudged = torch.full((1001, 1), 1.0)
    nudged[500] = 1 + 2**-23
    assert Moments.of(nudged).variance.item() == pytest.approx(2**-46 / 1001, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    given = values(400, 4, offset=2.0).to(dtype)
    found = Moments.of(given)
    torch.testing.assert_close(
        found.variance, given.double().var(0), rtol=1e-13 if dtype == torch.float64 else 1e-6, atol=0
    )
    torch.testing.assert_close(found.mean, given.double().mean(0), rtol=1e-7, atol=0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("count", [1, 40])
def test_what_is_not_finite_shows(bad: float, count: int) -> None:
    given = values(count, 3)
    assert bool(Moments.of(given).finite())
    given[-1, 1] = bad
    assert not bool(Moments.of(given).finite())
    assert not bool(Moments.of(values(9, 3)).merged(Moments.of(given)).finite())


def test_a_deviation_takes_two_values() -> None:
    with pytest.raises(InputError, match="takes at least 2 values, and there is 1"):
        _ = Moments.of(values(1, 3)).deviation
    with pytest.raises(InputError, match="takes at least 2 values, and there are 0"):
        _ = Moments.none(3).variance
    with pytest.raises(InputError, match="statistics of 3 and 2 neurons"):
        Moments.of(values(2, 3)).merged(Moments.of(values(2, 2)))
    with pytest.raises(InputError, match="cannot be put together"):
        Moments.of(values(2, 3)).merged(Moments.of(values(2, 3), extremes=True))


def test_means_of_rows_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_CPU_VALUES", 4)  # two tokens at a time
    given = torch.tensor([[1.0, 2], [3, 4], [10, 20], [5, 9], [-1, 0]])
    # row 3 has the tokens 0, 1 and 3: (1 + 3 + 5)/3 and (2 + 4 + 9)/3; row 7 the token 2; row 1 the last
    found = row_means(given, torch.tensor([3, 3, 7, 3, 1]))
    assert found.tolist() == [[-1, 0], [3, 5], [10, 20]]
    assert found.dtype == torch.float64
