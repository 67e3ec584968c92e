"""Protects the figures of a probe: shares, largest, counts by layer, and that nothing is lost on the way to JSON."""

from __future__ import annotations

import json

import pytest

from expunge.models.roles import Site
from expunge.probing.figures import LISTED, figures, role_of
from expunge.probing.separation import by_chance, separation
from made_probes import SITES, drawn_facts, probe

# Layer 0: neuron 0 means 4 and 0 with variance 2 on both sides: signed 4, standardised 4/sqrt(2) = 2.828;
#          neuron 1 never varies (1 and 1).
# Layer 1: neuron 0 means 0 and 1, variances 2 and 2: -1/sqrt(2) = -0.707; neuron 1 means 2 and 1.5, variances 2 and
#          0.5, pooled 1.25: 0.5/sqrt(1.25) = 0.447, below the threshold of 0.5.
FORGET = probe({SITES[0]: [[3.0, 1], [5, 1]], SITES[1]: [[-1.0, 1], [1, 3]]}, rows=2)
RETAIN = probe({SITES[0]: [[-1.0, 1], [1, 1]], SITES[1]: [[0.0, 1], [2, 2]]}, rows=2)


def test_two_layers_by_hand() -> None:
    found = figures(separation(FORGET, RETAIN))
    (role,) = found["roles"]
    first, second = found["layers"]
    assert (role["role"], role["neurons"], role["top"]) == ("mlp_activation", 4, 1)  # 3% of 4 neurons, at least one
    assert (first["share"], second["share"], role["share"]) == (0.5, 0.5, 0.5)
    assert (first["top"], second["top"]) == (1, 0)  # a difference of 4 is the highest
    assert (first["constant"], second["constant"], role["constant"]) == (1, 0, 1)
    assert first["largest"] == pytest.approx(8**0.5)
    assert second["largest"] == pytest.approx(-(0.5**0.5))
    assert first["median"] == pytest.approx(8**0.5)  # of the one neuron that varies
    # two rows a side: 2/3, for each site and for all (see the test of by_chance)
    assert [part["by_chance"] for part in (role, first, second)] == pytest.approx([2 / 3] * 3)
    (site,) = first["sites"]
    assert (site["site"], site["values"], site["share"]) == ("layers.0.act:input", {"forget": 2, "retain": 2}, 0.5)


def test_neurons_in_order_with_all_that_is_known_of_them() -> None:
    (role,) = figures(separation(FORGET, RETAIN))["roles"]
    assert [(one["layer"], one["neuron"]) for one in role["furthest"]] == [(0, 0), (1, 0), (1, 1)]
    assert role["furthest"][0] == {
        "site": "layers.0.act:input",
        "layer": 0,
        "neuron": 0,
        "signed": 4,
        "absolute": 4,
        "standardised": pytest.approx(8**0.5),
        "forget": {"mean": 4, "deviation": pytest.approx(2**0.5)},
        "retain": {"mean": 0, "deviation": pytest.approx(2**0.5)},
    }
    assert [(one["layer"], one["neuron"], one["signed"]) for one in role["highest"]] == [(0, 0, 4)]


def test_a_neuron_that_never_varies_has_no_standardised_difference_but_may_be_the_highest() -> None:
    site = SITES[0]
    ours, theirs = probe({site: [[9.0, 0], [9, 1]]}), probe({site: [[0.0, 0], [0, 1]]})
    (role,) = figures(separation(ours, theirs))["roles"]
    assert [(one["neuron"], one["standardised"]) for one in role["highest"]] == [(0, None)]
    assert [one["neuron"] for one in role["furthest"]] == [1]
    still = figures(separation(probe({site: [[9.0, 0]] * 2}), probe({site: [[0.0, 0]] * 2})))
    assert (still["roles"][0]["largest"], still["roles"][0]["median"], still["roles"][0]["share"]) == (None, None, 0)
    json.dumps(still, allow_nan=False)


def test_tokens_of_few_rows_are_not_taken_for_independent() -> None:
    values = [[0.0, 1], [1, 2]] * 50  # a hundred tokens of four rows
    found = figures(separation(probe({SITES[0]: values}, rows=4), probe({SITES[0]: values}, rows=4)))
    assert found["roles"][0]["by_chance"] == pytest.approx(by_chance(0.5, 4, 4))


def test_counts_by_layer_add_up_and_lists_are_cut() -> None:
    facts = drawn_facts(layers=4, width=50)
    (role,) = facts["roles"]
    assert role["top"] == sum(layer["top"] for layer in facts["layers"]) == round(0.03 * 4 * 50) == 6
    # differences grow with the layer, so the last one has the most of them
    assert facts["layers"][-1]["top"] >= 4
    assert [len(layer["furthest"]) for layer in facts["layers"]] == [LISTED] * 4
    assert len(role["highest"]) == 6
    json.dumps(facts, allow_nan=False)


def test_experts_of_a_layer_are_one_layer_and_those_without_tokens_are_named() -> None:
    experts = [Site("layers.0.experts.down_proj", "input", "mlp_key", 0, 1, number) for number in range(3)]
    apart, alike = [[0.0], [2.0]], [[10.0], [12.0]]
    ours = probe({experts[0]: apart, experts[1]: apart, experts[2]: []})
    theirs = probe({experts[0]: apart, experts[1]: alike, experts[2]: apart})
    found = figures(separation(ours, theirs))
    (layer,) = found["layers"]
    assert (layer["neurons"], layer["share"], len(layer["sites"])) == (2, 0.5, 2)
    assert layer["largest"] == pytest.approx(-10 / 2**0.5)
    assert layer["furthest"][0]["site"] == "layers.0.experts.down_proj[1]:input"
    assert [one["site"] for one in found["left_out"]] == ["layers.0.experts.down_proj[2]:input"]


@pytest.mark.parametrize(
    ("site", "name"),
    [
        (Site("model.layers.3.mlp.act_fn", "input", "mlp_activation", 3), "mlp_activation"),
        (Site("model.layers.3.self_attn.q_proj", "output", None, 3), "self_attn.q_proj:output"),
        (Site("model.layers.3", "output", None, 3), "layer:output"),
        (Site("model.norm", "output"), "model.norm:output"),
    ],
)
def test_what_was_found_by_name_goes_by_its_name_in_the_layer(site: Site, name: str) -> None:
    assert role_of(site) == name
