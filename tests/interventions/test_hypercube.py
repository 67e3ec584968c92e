"""Protects hypercubes: their closed forms, neurons that do not vary, and that early tests change no result."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from expunge.errors import ConfigError, InputError
from expunge.interventions.hypercube import Box, Hypercube, Hypercubes, unite
from expunge.models.roles import Site
from expunge.probing.probe import Probe
from expunge.probing.statistics import Moments
from fitting import rows

A, B = Site("a", "input"), Site("b", "input")
EPS = torch.finfo(torch.float32).eps


def box(keys: Any, dtype: torch.dtype = torch.float32) -> Box:
    return Box.of(Moments.of(torch.as_tensor(keys, dtype=torch.float32), extremes=True), dtype)


def detector(*boxes: Box, scale: float | list[float] = 1.0, site: Site = A, **more: Any) -> Hypercubes:
    scales = [scale] * len(boxes) if isinstance(scale, float) else scale
    given = {"generation": scales, "scoring": scales, **more}
    return Hypercubes([Hypercube({site: one}) for one in boxes], **given)


def test_centre_spread_and_k_star_by_hand() -> None:
    # neuron 0: mean 1, squares 1+1+1+9 = 12, over 3 is 4, spread 2; farthest 4: |4-1|/2 = 1.5
    # neuron 1: mean 2, squares 1+0+1+0 = 2, over 3, spread sqrt(2/3); farthest 1 or 3: 1/sqrt(2/3) = 1.22
    found = box([[0, 1], [0, 2], [0, 3], [4, 2]])
    assert found.centre.tolist() == [1, 2]
    torch.testing.assert_close(found.spread, torch.tensor([2, (2 / 3) ** 0.5]))
    assert found.k_star == 1.5


def test_ratio_by_hand() -> None:
    cubes = detector(box([[0, 1], [0, 2], [0, 3], [4, 2]]))
    # |5-1|/2 = 2 and 0; 0 and |0-2|/sqrt(2/3) = sqrt(6)
    found = cubes.ratio(A, torch.tensor([[5.0, 2.0], [1.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[2.0], [6**0.5]]))


def test_every_key_is_within_k_star_exactly() -> None:
    keys = torch.randn(50, 200, generator=torch.Generator().manual_seed(0)) * 3 + 1
    made = box(keys)
    ratios = detector(made).ratio(A, keys)
    assert ratios.max() == made.k_star
    assert detector(made, scale=made.k_star).inside(A, keys, scoring=False).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_neuron_that_never_varied_is_left_beyond_rounding(dtype: torch.dtype) -> None:
    # neuron 0 is always 4, neuron 1 is -1 and 1 (mean 0, spread sqrt 2); the magnitudes' mean is (4+1)/2 = 2.5
    made = box([[4, -1], [4, 1]], dtype)
    tolerance = 8 * (torch.finfo(dtype).eps * 4 + EPS * 2.5)
    assert made.spread.tolist() == [0, pytest.approx(2**0.5)]
    assert made.tolerance.tolist() == [pytest.approx(tolerance), 0]
    assert made.k_star == pytest.approx(0.5**0.5)
    values = torch.tensor([[4, 0], [4 + tolerance / 2, 1], [4 + tolerance * 2, 0], [0, 0]])
    cubes = detector(made, scale=1e30)
    assert cubes.ratio(A, values)[:, 0].tolist() == [0, pytest.approx(0.5**0.5), torch.inf, torch.inf]
    assert cubes.inside(A, values, scoring=True)[:, 0].tolist() == [True, True, False, False]


def test_all_neurons_at_zero() -> None:
    # two equal keys of a silent layer: the tolerance is 0, too, and only zeros are inside, with any h
    made = box([[0, 0], [0, 0]])
    assert made.k_star == 0
    found = detector(made, scale=0.0).inside(A, torch.tensor([[0, 0], [0, 1e-6]]), scoring=False)
    assert found[:, 0].tolist() == [True, False]


def random_cubes(count: int, width: int, seed: int = 0) -> tuple[list[Box], torch.Generator]:
    """Boxes whose neurons have very different spreads, some of which never vary (others in each box)."""
    draw = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        keys = torch.randn(5, width, generator=draw) * torch.rand(width, generator=draw)
        keys[:, torch.rand(width, generator=draw) < 0.05] = 0.0
        made.append(box(keys))
    return made, draw


@pytest.mark.parametrize(("count", "width"), [(1, 300), (100, 300), (7, 40), (3, 70000)])
def test_inside_is_ratio_at_most_the_scale(count: int, width: int) -> None:
    boxes, draw = random_cubes(count, width)
    # mixtures of what lies in a box and what does not, beside what is no number
    values = torch.stack([boxes[i % count].centre for i in range(20)])
    values[5:15] += 0.02 * torch.randn(10, width, generator=draw) * boxes[0].spread
    values[12:] += torch.randn(8, width, generator=draw)
    values[18, 3], values[19, 4] = torch.nan, torch.inf
    exact = detector(*boxes).ratio(A, values)
    assert exact[18].isnan().all() and not (exact[19] < torch.inf).any()
    finite = exact[exact.isfinite()]
    # scales that some values hit exactly: just inside
    scales = finite[torch.randint(len(finite), (count,), generator=draw)]
    cubes = detector(*boxes, scale=scales.tolist())
    inside = cubes.inside(A, values, scoring=False)
    assert inside.shape == (20, count) and inside.any() and not inside.all()
    assert torch.equal(inside, exact <= scales)
    one_by_one = torch.cat([cubes.inside(A, value[None], scoring=False) for value in values])
    assert torch.equal(inside, one_by_one)
    learning = values.clone().requires_grad_()
    assert not cubes.ratio(A, learning).requires_grad
    assert torch.equal(cubes.inside(A, learning, scoring=False), inside)
    half = values.bfloat16()
    assert torch.equal(cubes.inside(A, half, scoring=True), cubes.ratio(A, half.float()) <= scales)


def test_the_order_of_neurons_changes_nothing_but_the_work() -> None:
    boxes, draw = random_cubes(4, 300)
    values = torch.stack([one.centre for one in boxes]) + 0.05 * torch.randn(4, 300, generator=draw)
    wanted = detector(*boxes, scale=2.0).inside(A, values, scoring=False)
    other = [replace(one, order=torch.arange(4)) for one in boxes]
    assert torch.equal(detector(*other, scale=2.0).inside(A, values, scoring=False), wanted)


def test_the_neurons_that_other_text_leaves_by_come_first() -> None:
    # spreads sqrt(1/3) each, about 0; others: neuron 2 has mean 9, neuron 70 varies by 5, all else 0
    keys = torch.tensor([[1.0], [-1.0], [0.0], [0.0]]).expand(4, 100)
    others = torch.zeros(4, 100)
    others[:, 2] = 9
    others[:, 70] = torch.tensor([5, -5, 5, -5])
    made = Box.of(Moments.of(keys, extremes=True), torch.float32, Moments.of(others))
    assert made.order[:2].tolist() == [2, 70]
    # of other text nothing known: the narrowest for their distance from 0
    keys = keys * torch.linspace(1, 2, 100).roll(30)
    assert box(keys).order[0] == 30


def test_compiled_whole_it_says_the_same() -> None:
    boxes, draw = random_cubes(4, 300)
    values = torch.stack([one.centre for one in boxes]) + 0.05 * torch.randn(4, 300, generator=draw)
    cubes = detector(*boxes, scale=2.0)
    compiled = torch.compile(lambda some: cubes.inside(A, some, scoring=False), backend="eager", fullgraph=True)
    assert torch.equal(compiled(values), cubes.inside(A, values, scoring=False))
    torch._dynamo.reset()


def test_no_values_are_in_no_box() -> None:
    boxes, _ = random_cubes(3, 100)
    assert detector(*boxes).inside(A, torch.zeros(0, 100), scoring=False).shape == (0, 3)
    assert detector(*boxes).ratio(A, torch.zeros(0, 100)).shape == (0, 3)


def test_each_cube_has_a_scale_to_generate_and_one_to_score() -> None:
    made = box([[-1, -1], [1, 1]])  # mean 0, spread sqrt 2
    cubes = detector(made, made, generation=[1.0, 2.0], scoring=[3.0, 0.5])
    value = torch.tensor([[0, 2.0]])  # ratio sqrt 2
    assert cubes.inside(A, value, scoring=False).tolist() == [[False, True]]
    assert cubes.inside(A, value, scoring=True).tolist() == [[True, False]]


def keys_of(family: str = "llama", count: int = 4, **scope: Any) -> Any:
    given = {"pooling": "last", "part": "prompt", "extremes": True, **scope}
    return Probe("mlp_key", **given).run(zoo.model(family), zoo.tokenizer(family), rows(count, "forget"))


def test_a_hypercube_of_several_layers_has_one_k_star() -> None:
    probe = keys_of()
    made = Hypercube.of(probe)
    assert made.sites == probe.sites and len(made.sites) == 2
    each = [Hypercube.of(probe, sites=[site]).k_star for site in probe.sites]
    assert made.k_star == max(each) > min(each)
    for site in probe.sites:
        torch.testing.assert_close(made.boxes[site].centre, probe.mean(site).float())
        torch.testing.assert_close(made.boxes[site].spread, probe.deviation(site).float())


def test_bad_keys_say_what_to_do() -> None:
    with pytest.raises(
        InputError, match=r"at least 2 forget keys, and there is 1 at model.*down_proj:input \(1 forget row,"
    ):
        Hypercube.of(keys_of(count=1))
    assert Hypercube.of(keys_of(count=1, pooling="all")).sites
    with pytest.raises(InputError, match="extremes=True"):
        Hypercube.of(keys_of(extremes=False))
    with pytest.raises(ConfigError, match="at least one site"):
        Hypercube.of(keys_of(), sites=[])


def test_an_expert_with_too_few_keys_has_no_box() -> None:
    probe = keys_of("mixtral", count=3)  # 3 last tokens, 2 experts each of 4
    counts = {site: probe.count(site) for site in probe.sites}
    assert min(counts.values()) < 2
    assert Hypercube.of(probe).sites == tuple(site for site, count in counts.items() if count > 1)
    with pytest.raises(InputError, match=r"no expert of .*down_proj was sent two keys"):
        Hypercube.of(keys_of("mixtral", count=1))


def test_wrong_detectors_are_refused() -> None:
    made = box([[-1, -1], [1, 1]])
    cases: list[tuple[dict[str, Any], str]] = [
        ({"generation": [1.0, 2.0]}, "generation has 2 for 1 hypercubes"),
        ({"refusals": []}, "refusals has 0"),
        ({"scoring": [float("nan")]}, "NaN"),
        ({"steer": torch.zeros(1, 3)}, r"steer has shape \[1, 3\]; \[1, 2\] is needed"),
    ]
    for given, message in cases:
        with pytest.raises(ConfigError, match=message):
            detector(made, **given)
    with pytest.raises(ConfigError, match="no hypercube"):
        detector()
    with pytest.raises(InputError, match="different sites or widths"):
        detector(made, box([[1], [2]]))
    with pytest.raises(InputError, match="different sites"):
        Hypercubes([Hypercube({A: made}), Hypercube({B: made})], generation=[1, 1], scoring=[1, 1])


def test_united_detectors_say_the_same_side_by_side() -> None:
    boxes, draw = random_cubes(5, 100)
    steer = torch.ones(1, 100)
    first = detector(boxes[0], boxes[1], scale=[2.0, 1.0], refusals=[(1,), (2, 3)])
    other = detector(boxes[2], scale=1.0, site=B, refusals=[(4,)])
    third = detector(boxes[3], scale=3.0, scoring=[0.0], refusals=[(5,)])
    steering = detector(boxes[4], scale=1.0, steer=steer)
    united = unite(first, other, third, steering)
    assert [(one.sites, one.count, one.refusals) for one in united] == [
        ((A,), 3, ((1,), (2, 3), (5,))),
        ((B,), 1, ((4,),)),
        ((A,), 1, ((),)),
    ]
    assert united[0].steer is None and united[2].steer is not None and torch.equal(united[2].steer, steer)
    values = torch.stack([one.centre for one in boxes]) + 0.1 * torch.randn(5, 100, generator=draw)
    for scoring in (False, True):
        beside: list[Tensor] = [one.inside(A, values, scoring=scoring) for one in (first, third)]
        assert torch.equal(united[0].inside(A, values, scoring=scoring), torch.cat(beside, 1))
