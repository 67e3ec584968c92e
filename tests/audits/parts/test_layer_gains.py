"""Protects what a layer counts as showing: gains in the forget rows alone, not what two trainings differ by."""

from __future__ import annotations

import numpy as np
import pytest

from expunge.audits.parts.layer_gains import difference_of_differences, layer_gains

FORGET, HOLDOUT = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.5, 1.5])


def test_gains_beyond_the_holdout_rows() -> None:
    # means 2.5 and 1; variances 5/3 and 1/2, so that the squared errors are 5/12 and 1/4: sqrt(2/3) together.
    # Freedom (2/3)^2 / ((5/12)^2 / 3 + (1/4)^2 / 1) = 0.4444 / 0.12037 = 3.69; t = 1.5 / 0.8165 = 1.837, and the
    # one-sided 5% point is 2.13 at 4 and 2.35 at 3 degrees: not sure.
    found = difference_of_differences(FORGET, HOLDOUT)
    assert found.value == pytest.approx(1.5) and found.stderr == pytest.approx((2 / 3) ** 0.5)
    assert found.n == 4 and not found.sure
    # 0.5 more: t = 2 / 0.8165 = 2.449, above both, and below the 10% / 8 point, which is above 3
    assert difference_of_differences(FORGET + 0.5, HOLDOUT).sure
    assert not difference_of_differences(FORGET + 0.5, HOLDOUT, tests=4).sure
    assert not difference_of_differences(FORGET - 9, HOLDOUT).sure


def test_rows_that_do_not_vary_and_single_ones() -> None:
    assert difference_of_differences(np.ones(3), np.zeros(2)).sure
    assert not difference_of_differences(np.ones(3), np.full(2, 0.995)).sure  # 0.005: of no use to anybody
    alone = difference_of_differences(np.ones(1), np.zeros(2))
    assert alone.stderr is None and not alone.sure


def test_a_shift_of_everything_is_no_finding() -> None:
    generator = np.random.default_rng(0)
    forget = {"retrained": generator.normal(-7, 1, (2, 12))}
    holdout = {"retrained": generator.normal(-7, 1, (2, 9))}
    for some in (forget, holdout):
        some["erased"] = some["retrained"] + 1.4  # another training's calibration
    forget["target"], holdout["target"] = forget["retrained"] + 6, holdout["retrained"] + 0.5
    alone = layer_gains(forget, None)  # type: ignore[arg-type]
    assert all(one.shows(0.1) and one.holdout is None for one in alone)
    beside = layer_gains(forget, holdout)  # type: ignore[arg-type]
    assert not any(one.gain.sure or one.shows(0.1) for one in beside)
    assert [one.holdout for one in beside] == pytest.approx([1.4, 1.4])
    assert [one.known.value for one in beside] == pytest.approx([5.5, 5.5])
    # a shift of the forget rows alone is one: 1 more, of 5.5 that the target has
    forget["erased"] = forget["erased"] + 1
    assert all(one.shows(0.1) and not one.shows(0.2) for one in layer_gains(forget, holdout))  # type: ignore[arg-type]
    assert layer_gains({name: forget[name] for name in ("target", "erased")}, None) == []  # type: ignore[misc, arg-type]
