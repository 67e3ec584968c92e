"""Protects the scores that neurons are chosen by: their values, what is never divided by, and what is not compared."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from expunge.errors import InputError
from expunge.models.roles import Site
from expunge.probing.separation import (
    absolute,
    by_chance,
    constant,
    pooled_deviation,
    ranked,
    separation,
    signed,
    standardised,
)
from expunge.probing.statistics import Moments
from made_probes import SITES, probe

# Values of four neurons, a column each.
# 0: forget 1 3, mean 2, variance 2; retain -1 1 3, mean 1, variance (4 + 0 + 4)/2 = 4; pooled (2 + 4)/2 = 3.
# 1: 5 everywhere: the means are the same, and nothing spreads.
# 2: 0 on forget, 2 on retain: the means differ, and nothing spreads.
# 3: forget 1 1, variance 0; retain 0 3 3, mean 2, variance (4 + 1 + 1)/2 = 3; pooled 1.5: one side spreads, so there is
#    a figure.
FORGET = Moments.of(torch.tensor([[1.0, 5, 0, 1], [3, 5, 0, 1]]))
RETAIN = Moments.of(torch.tensor([[-1.0, 5, 2, 0], [1, 5, 2, 3], [3, 5, 2, 3]]))


def test_the_three_scores_by_hand() -> None:
    assert signed(FORGET, RETAIN).tolist() == [1, 0, -2, -1]
    assert absolute(FORGET, RETAIN).tolist() == [1, 0, 2, 1]
    assert pooled_deviation(FORGET, RETAIN).tolist() == pytest.approx([3**0.5, 0, 0, 1.5**0.5])
    found = standardised(FORGET, RETAIN)
    assert found[[0, 3]].tolist() == pytest.approx([1 / 3**0.5, -1 / 1.5**0.5])
    assert found.isnan().tolist() == constant(FORGET, RETAIN).tolist() == [False, True, True, False]
    assert found.dtype == torch.float64


def test_the_rounding_of_a_mean_is_no_spread() -> None:
    # 3 with a deviation of 2e-6, less than a millionth of 3; and 3e-6 with the same deviation, which is a real spread
    wiggle = torch.tensor([[-1.0], [1.0]], dtype=torch.float64) * 2**0.5 * 1e-6
    values = wiggle + torch.tensor([3, 3e-6], dtype=torch.float64)
    side = Moments.of(values)
    assert side.deviation.tolist() == pytest.approx([2e-6, 2e-6], rel=1e-6)
    assert constant(side, side).tolist() == [True, False]


def test_one_value_has_no_deviation_and_widths_must_agree() -> None:
    one = Moments.of(torch.ones(1, 4))
    assert signed(one, RETAIN).tolist() == [0, -4, -1, -1]  # a mean is there all the same
    with pytest.raises(InputError, match="at least 2 values, and there is 1"):
        standardised(one, RETAIN)
    with pytest.raises(InputError, match="3 and 4 neurons cannot be compared"):
        signed(Moments.of(torch.ones(2, 3)), RETAIN)


def test_what_chance_gives_by_hand_and_by_drawing() -> None:
    # Two values a side: 2 degrees of freedom, t = 0.5 / sqrt(1/2 + 1/2) = 0.5, and Student's distribution with 2 has
    # P(|T| > t) = 1 - t / sqrt(2 + t^2) = 1 - 0.5 / 1.5 = 2/3.
    assert by_chance(0.5, 2, 2) == pytest.approx(2 / 3)
    assert by_chance(0.5, 1, 40) is None
    generator = torch.Generator().manual_seed(0)
    for forget, retain in ((4, 4), (10, 40), (40, 8)):
        sides = [Moments.of(torch.randn((count, 20_000), generator=generator)) for count in (forget, retain)]
        drawn = (standardised(*sides).abs() > 0.5).double().mean().item()
        # a share near 1/5 of 20,000 has a standard error of 0.003
        assert by_chance(0.5, forget, retain) == pytest.approx(drawn, abs=0.012)


def test_the_highest_over_several_tensors() -> None:
    scores = [torch.tensor([1.0, torch.nan, 3.0]), torch.tensor([3.0, 2.0])]
    assert ranked(scores, 3) == [(0, 2), (1, 0), (1, 1)]  # of two threes the first tensor's goes first
    assert ranked(scores, 9) == [(0, 2), (1, 0), (1, 1), (0, 0)]  # what is no number is never among them
    assert ranked([], 3) == ranked([torch.tensor([torch.nan])], 3) == []


def test_two_probes_site_by_site() -> None:
    found = separation(
        probe({SITES[0]: [[0.0, 1], [2, 1]]}, rows=2), probe({SITES[0]: [[0.0, 1], [0, 1], [6, 1]]}, rows=3)
    )
    (one,) = found.sites
    # neuron 0: means 1 and 2, variances 2 and (4 + 4 + 16)/2 = 12, pooled 7: -1 / sqrt(7) = -0.378
    assert one.signed.tolist() == [-1, 0]
    assert one.standardised[0].item() == pytest.approx(-1 / 7**0.5)
    assert one.constant.tolist() == [False, True]
    assert (one.beyond(0.37), one.beyond(0.38)) == (1, 0)
    assert (one.width, found.rows, dict(found.left_out)) == (2, (2, 3), {})


def test_probes_of_other_models_or_scopes_are_refused() -> None:
    values = {SITES[0]: [[0.0, 1], [2, 1]]}
    ours = probe(values)
    for other, what in (
        (replace(ours, target=replace(ours.target, weights="others")), "weights differ"),
        (replace(ours, values="changed"), "the weights in memory differ"),
        (replace(ours, scope=replace(ours.scope, pooling="last")), "pooling, part, length or template differ"),
        (probe({SITES[1]: [[0.0, 1], [2, 1]]}), "the sites differ"),
    ):
        with pytest.raises(InputError, match=f"cannot be compared: {what}"):
            separation(ours, other)
    assert separation(ours, replace(ours, scope=replace(ours.scope, rows=9, cut=2))).sites  # other rows are the point


def test_too_few_values_are_an_error_and_experts_are_left_out() -> None:
    expert, other = (Site("layers.0.experts.down_proj", "input", "mlp_key", 0, 1, number) for number in (0, 1))
    both = [[0.0], [2.0]]
    with pytest.raises(InputError, match=r"layers\.0\.act:input has 1 value of forget \(pooling all, part all\)"):
        separation(probe({SITES[0]: [[0.0, 1]]}), probe({SITES[0]: [[0.0, 1], [2, 1]]}))
    found = separation(probe({expert: both, other: []}), probe({expert: both, other: both}))
    assert [one.site for one in found.sites] == [expert]
    assert dict(found.left_out) == {other: "0 values of forget; a standard deviation takes two"}
    with pytest.raises(InputError, match="no site has two values of both forget and retain: 1 experts"):
        separation(probe({other: []}), probe({other: both}))
