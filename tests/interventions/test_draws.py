"""Protects random draws that are functions of seed, site, neuron, position and token alone."""

import torch

from expunge.interventions.draws import neuron_keys, token_keys, uniform

NEURONS = torch.arange(400)
IDS = torch.randint(0, 50000, (300,), generator=torch.Generator().manual_seed(0))
PLACES = torch.arange(300)


def drawn(
    seed: int = 0, site: str = "a:input", ids: torch.Tensor | None = IDS, places: torch.Tensor = PLACES
) -> torch.Tensor:
    return uniform(token_keys(seed, places, ids), neuron_keys(site, NEURONS))


def test_draws_are_uniform_and_independent() -> None:
    # 120,000 draws: the mean of n uniform numbers has a standard deviation of 1/sqrt(12 n) = 8.3e-4, their mean square
    # (1/3) one of sqrt(4/45/n) = 8.6e-4, and a correlation of m pairs one of 1/sqrt(m). Five of each.
    values = drawn()
    assert values.shape == (300, 400)
    assert float(values.min()) > 0
    assert float(values.max()) < 1
    assert abs(float(values.mean()) - 1 / 2) < 5 * 8.3e-4
    assert abs(float(values.square().mean()) - 1 / 3) < 5 * 8.6e-4
    centred = values - 0.5
    for one, other in ((centred[1:], centred[:-1]), (centred[:, 1:], centred[:, :-1])):
        correlation = float((one * other).mean()) * 12
        assert abs(correlation) < 5 / one.numel() ** 0.5
    # No pair of neurons goes together: of 79,800 correlations over 300 tokens the largest is about 4.5/sqrt(300).
    matrix = torch.corrcoef(values.T)
    assert float((matrix - torch.eye(400)).abs().max()) < 6 / 300**0.5
    buckets = torch.histc(values, bins=16, min=0, max=1)  # 7500 each, standard deviation 84
    assert float((buckets - 7500).abs().max()) < 5 * 84


def test_whatever_they_depend_on_changes_them_all() -> None:
    first = drawn()
    others = [drawn(seed=1), drawn(site="b:input"), drawn(ids=IDS + 1), drawn(places=PLACES + 1), drawn(ids=None)]
    for other in others:
        assert float((first == other).float().mean()) < 1e-3
    assert torch.equal(drawn(), first)


def test_a_token_has_its_draws_in_any_company() -> None:
    alone = uniform(token_keys(3, PLACES[7:8], IDS[7:8]), neuron_keys("a:input", NEURONS[5:6]))
    assert float(alone) == float(drawn(seed=3)[7, 5])
    batch = uniform(token_keys(3, PLACES.view(3, 100), IDS.view(3, 100)), neuron_keys("a:input", NEURONS))
    assert torch.equal(batch.view(300, 400), drawn(seed=3))
