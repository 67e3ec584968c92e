"""Protects pruning and noise: which weights go, by hand, and how large the noise is."""

from __future__ import annotations

import pytest
import torch

from expunge.audits.parts.disturbed import with_noise, without_smallest


def test_the_smallest_of_each_matrix_go() -> None:
    weight = torch.tensor([[[1.0, -2.0], [3.0, -4.0]], [[10.0, 40.0], [-20.0, 30.0]]])  # two experts
    # half of four: 1 and -2 of the one, 10 and -20 of the other
    expected = [[[0.0, 0.0], [3.0, -4.0]], [[0.0, 40.0], [0.0, 30.0]]]
    assert without_smallest(weight, 0.5).tolist() == expected
    assert torch.equal(without_smallest(weight, 0.6), torch.tensor(expected))  # floor(2.4) = 2
    assert torch.equal(without_smallest(weight, 0.2), weight)  # floor(.8) = 0
    assert without_smallest(weight.bfloat16(), 0.5).tolist() == expected


def test_the_same_size_goes_together() -> None:
    # floor(.3 * 4) = 1 goes, a 1; the other 1 is no larger
    assert without_smallest(torch.tensor([[1.0, -1.0], [2.0, 3.0]]), 0.3).tolist() == [[0.0, 0.0], [2.0, 3.0]]


def test_noise_is_a_share_of_each_matrix_deviation() -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.stack([deviation * torch.randn(80, 80, generator=generator) for deviation in (1, 10)])
    noise = with_noise(weight, 0.1, torch.Generator().manual_seed(0)) - weight
    # sd 0.1 times 1 and 10; of 6400 numbers the sample's is off by 1/sqrt(12800) = 0.9% (one in 2000 by 3.5 of them)
    shares = noise.std(dim=(-2, -1)) / weight.std(dim=(-2, -1))
    assert shares.tolist() == pytest.approx([0.1, 0.1], rel=0.04)
    again = with_noise(weight, 0.2, torch.Generator().manual_seed(0)) - weight
    torch.testing.assert_close(again, 2 * noise, rtol=1e-3, atol=1e-4)  # the same numbers, twice as large
    assert with_noise(weight.bfloat16(), 0.1, torch.Generator().manual_seed(0)).dtype is torch.bfloat16
