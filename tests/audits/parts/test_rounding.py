"""Protects rounding to few bits: codes, scales and groups by hand, and what is counted as undone."""

from __future__ import annotations

import pytest
import torch

from expunge.audits.parts.rounding import Undone, refused, round_to_nearest, rounder, usual_backend
from expunge.errors import ConfigError
from expunge.extras import installed


def test_codes_and_values_by_hand() -> None:
    weight = torch.tensor([[7.0, -3.4, 0.6, 1.4], [0.0, 0.0, 0.0, 0.0], [0.35, 0.7, -0.1, 0.2]])
    found = round_to_nearest(weight, 7, 4)
    # row 0: s = 7/7 = 1; row 1: nothing but zeros; row 2: s = .7/7 = .1, and .35 is 3.5 of it, less in float32 or more
    assert found.codes is not None and found.codes.dtype is torch.int8
    assert found.codes[0].tolist() == [7, -3, 1, 1] and found.values[0].tolist() == [7, -3, 1, 1]
    assert found.codes[1].tolist() == [0, 0, 0, 0] and found.values[1].tolist() == [0, 0, 0, 0]
    assert found.codes[2].tolist()[1:] == [7, -1, 2] and found.codes[2, 0] in (3, 4)
    assert found.values[2, 1:].tolist() == pytest.approx([0.7, -0.1, 0.2])


def test_groups_have_scales_of_their_own_and_the_last_may_be_small() -> None:
    weight = torch.tensor([[14.0, 3.1, 0.7, 0.31, 0.05]])
    found = round_to_nearest(weight, 7, 2)
    # groups (14, 3.1): s = 2, 3.1 / 2 = 1.55 -> 2; (.7, .31): s = .1 -> 7, 3; (.05): s = .05 / 7 -> 7
    assert found.codes is not None and found.codes.tolist() == [[7, 2, 7, 3, 7]]
    assert found.values[0].tolist() == pytest.approx([14, 4, 0.7, 0.3, 0.05])
    # one scale for all: s = 2, so that what is small goes
    assert round_to_nearest(weight, 7, 64).values[0].tolist() == pytest.approx([14, 4, 0, 0, 0])


def test_int8_is_off_by_half_a_step_at_most_and_keeps_the_precision() -> None:
    weight = torch.randn(3, 5, 40, generator=torch.Generator().manual_seed(0))  # as experts are held
    found = rounder("int8", 64, "own")(weight)
    step = weight.abs().amax(-1, keepdim=True) / 127
    assert bool(((found.values - weight).abs() <= 0.5001 * step).all())
    assert round_to_nearest(weight.bfloat16(), 127, 40).values.dtype is torch.bfloat16
    # what is rounded once stays as it is
    assert torch.equal(rounder("int8", 64, "own")(found.values).codes, found.codes)  # type: ignore[arg-type]


def test_changes_that_rounding_takes_back_are_counted() -> None:
    target = torch.tensor([[7.0, 3.0, 1.0, 0.0]])
    erased = torch.tensor([[7.0, 3.4, 1.6, 0.0]])
    # s = 1 for both: 3.4 rounds to 3 as the target's does, 1.6 to 2; two weights were changed
    undone = Undone()
    undone.add(erased, target, rounder("int4", 4, "own"))
    assert undone.as_dict() == {"changed": 2, "share_of_same_value": 0.5, "share_of_same_code": 0.5}
    # with 7.7 for 7 the scale is 1.1: 3.4 has code 3 still, but 3.3 is not 3; 7.7 has code 7 and is 7.7
    undone = Undone()
    undone.add(torch.tensor([[7.7, 3.4, 1.0, 0.0]]), target, rounder("int4", 4, "own"))
    assert undone.as_dict() == {"changed": 2, "share_of_same_value": 0.0, "share_of_same_code": 1.0}
    # all of it times .2: the scale, too, so that the codes are the same and the values are not
    undone = Undone()
    undone.add(0.2 * target, target, rounder("int4", 4, "own"))
    assert undone.as_dict() == {"changed": 3, "share_of_same_value": 0.0, "share_of_same_code": 1.0}
    nothing = Undone()
    nothing.add(target, target.clone(), rounder("int4", 4, "own"))
    assert nothing.as_dict() == {"changed": 0, "share_of_same_value": None, "share_of_same_code": None}


def test_what_no_package_does_is_said() -> None:
    with pytest.raises(ConfigError, match=r"nf4 is not rounded through own\. Choose bitsandbytes"):
        rounder("nf4", 64, "own")


@pytest.mark.skipif(installed("torchao") is not None, reason="torchao is installed")
def test_without_torchao_our_own_arithmetic_is_used() -> None:
    assert usual_backend("int8") == usual_backend("int4") == "own"
    with pytest.raises(ConfigError, match=r"needs the package torchao, which is not installed"):
        rounder("int8", 64, "torchao")


@pytest.mark.skipif(installed("torchao") is None, reason="torchao is not installed")
@pytest.mark.parametrize(("scheme", "most"), [("int8", 127), ("int4", 7)])
def test_torchao_rounds_to_about_the_same(scheme: str, most: int) -> None:
    weight = torch.randn(2, 8, 128, generator=torch.Generator().manual_seed(0))
    found = rounder(scheme, 64, "torchao")(weight)  # type: ignore[arg-type]
    assert found.codes is None and found.values.shape == weight.shape
    own = rounder(scheme, 64, "own")(weight)  # type: ignore[arg-type]
    step = float(weight.abs().max()) / most
    assert float((found.values - own.values).abs().max()) <= 1.1 * step


@pytest.mark.skipif(installed("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_normalfloat_has_sixteen_values_in_a_group() -> None:
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    values = rounder("nf4", 64, "bitsandbytes")(weight).values
    assert max(len(row.unique()) for row in values) <= 16
    assert float((values - weight).abs().mean()) < 0.15


def test_torchao_has_so_many_values_a_group_and_rounds_experts_one_by_one() -> None:
    pytest.importorskip("torchao")
    drawn = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    for scheme, levels, size in (("int8", 256, 64), ("int4", 16, 32)):
        round_ = rounder(scheme, 32, "torchao")  # type: ignore[arg-type]
        values = round_(drawn).values
        for row, given in zip(values.reshape(-1, size), drawn.reshape(-1, size), strict=True):
            found = row.unique()
            assert len(found) <= levels
            # no weight is farther off than half a step, and one at the edge of an asymmetric grid than a whole one
            step = float(given.abs().max()) / (levels / 2 - 1)
            assert float((row - given).abs().max()) <= step
        assert round_(drawn).values.equal(values)
        assert round_(drawn.bfloat16()).values.dtype == torch.bfloat16
        assert round_(drawn.reshape(2, 4, 64)).values.equal(values.reshape(2, 4, 64))  # experts, one after the other
    with pytest.raises(ConfigError, match="64 inputs are no multiple of 48"):
        rounder("int4", 48, "torchao")(drawn)
    sizes = [(inputs, torch.bfloat16, torch.device("cpu")) for inputs in (32, 64, 96)]
    # 32 is one small group, 64 one and 96 one and a half
    assert "96 inputs are no multiple of 64" in refused(rounder("int4", 64, "torchao"), sizes)
    assert refused(rounder("int4", 64, "torchao"), sizes[:2]) == refused(rounder("int8", 64, "torchao"), sizes) == ""


@pytest.mark.skipif(installed("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_groups_that_bitsandbytes_has_not_are_said() -> None:
    sizes = [(96, torch.float32, torch.device("cpu"))]
    assert "group=48: bitsandbytes has no such groups" in refused(rounder("nf4", 48, "bitsandbytes"), sizes)
    assert refused(rounder("nf4", 64, "bitsandbytes"), sizes) == ""


def test_our_own_arithmetic_refuses_nothing() -> None:
    assert refused(rounder("int4", 64, "own"), [(96, torch.float16, torch.device("cpu"))]) == ""
