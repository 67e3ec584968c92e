"""Protects which neurons are chosen: the highest scores over all sites, ties and impossible ones decided."""

import pytest
import torch

from expunge.errors import ConfigError
from expunge.interventions.selection import highest
from expunge.models.roles import Site

A, B = Site("a", "input"), Site("b", "input")


def chosen(percent: float, a: list[float], b: list[float]) -> dict[str, list[int]]:
    found = highest({A: torch.tensor(a), B: torch.tensor(b)}, percent)
    return {site.module: neurons.tolist() for site, neurons in found.items()}


def test_the_share_is_of_all_sites_together() -> None:
    # 5 neurons, 40% are 2: 7 and 6, both at b. 60% are 3: 5 of a, too.
    assert chosen(40, [5, 1], [7, 2, 6]) == {"b": [0, 2]}
    assert chosen(60, [5, 1], [7, 2, 6]) == {"a": [0], "b": [0, 2]}


def test_one_at_least_and_the_first_of_equals() -> None:
    assert chosen(1, [3, 3], [3, 3]) == {"a": [0]}
    assert chosen(75, [3, 3], [3, 3]) == {"a": [0, 1], "b": [0]}


def test_neurons_that_cannot_be_chosen_are_not() -> None:
    infinite = float("inf")
    assert chosen(40, [-infinite, -3], [-infinite, -1, -2]) == {"b": [1, 2]}
    with pytest.raises(ConfigError, match=r"80% of 5 neurons are 4, and only 3 can be chosen.*method\.k"):
        chosen(80, [-infinite, -3], [-infinite, -1, -2])
