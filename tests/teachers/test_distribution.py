"""Protects the arithmetic of a teacher: names changed back, teachers averaged, Who's Harry Potter's choice."""

from __future__ import annotations

import pytest
import torch

from expunge.teachers.distribution import NameTokens, aggregate, change_name_back, whp_choice

# A vocabulary of 5 tokens: 0 "the", 1 the subject's name, 2 and 3 the names of two substitutes, 4 "he".
NAMES = NameTokens.of([{2: 1}, {3: 1}])
NOWHERE = torch.tensor([-1])
BEGUN = torch.tensor([True])


def teachers(*rows: list[float]) -> torch.Tensor:
    """One place, a row a teacher."""
    return torch.tensor(rows)[:, None]


def moved(probs: torch.Tensor, standing: torch.Tensor = NOWHERE, begun: torch.Tensor = BEGUN) -> list[list[float]]:
    found: list[list[float]] = change_name_back(probs, NAMES, standing, begun)[:, 0].tolist()
    return found


def test_where_most_teachers_give_a_name_it_goes_to_the_subjects() -> None:
    # Both give their own name more than 0.1 (0.3, 0.2), which is more than half of two; the other's name stays.
    given = teachers([0.5, 0.0, 0.3, 0.1, 0.1], [0.6, 0.1, 0.05, 0.2, 0.05])
    assert moved(given) == [pytest.approx([0.5, 0.3, 0, 0.1, 0.1]), pytest.approx([0.6, 0.3, 0.05, 0, 0.05])]


def test_where_half_of_the_teachers_give_a_name_nothing_moves() -> None:
    # 0.3 and 0.1: the second is not more than 0.1, and one of two is not more than half.
    rows = [[0.5, 0.0, 0.3, 0.1, 0.1], [0.7, 0.1, 0.05, 0.1, 0.05]]
    assert moved(teachers(*rows)) == [pytest.approx(row) for row in rows]


def test_what_stands_next_gets_the_name_however_small() -> None:
    # Token 4, a pronoun, stands next: 0.05 and 0.02 go there, though no teacher gives more than 0.1.
    given = teachers([0.8, 0.0, 0.05, 0.1, 0.05], [0.9, 0.04, 0.0, 0.02, 0.04])
    at_pronoun = moved(given, standing=torch.tensor([4]))
    assert at_pronoun == [pytest.approx([0.8, 0, 0, 0.1, 0.1]), pytest.approx([0.9, 0.04, 0, 0, 0.06])]


def test_before_the_first_mention_nothing_moves() -> None:
    rows = [[0.2, 0.0, 0.8, 0.0, 0.0], [0.2, 0.0, 0.0, 0.8, 0.0]]
    for standing in (NOWHERE, torch.tensor([4])):
        still = moved(teachers(*rows), standing=standing, begun=torch.tensor([False]))
        assert still == [pytest.approx(row) for row in rows]


def test_a_substitute_whose_name_begins_as_the_text_goes_on_keeps_its_mass() -> None:
    # The first substitute's token is the one that stands there: taken away and given back.
    given = teachers([0.4, 0.0, 0.6, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0])
    assert moved(given, standing=torch.tensor([2]))[0] == pytest.approx([0.4, 0, 0.6, 0, 0])


def test_names_of_unlike_numbers_of_tokens_stand_side_by_side() -> None:
    names = NameTokens.of([{2: 1, 3: 1}, {3: 1}])
    assert names.sources.tolist() == [[2, 3], [3, -1]]
    # Three tokens go to 1 in the first teacher (0.2 + 0.3), one in the second; padding moves nothing from token 0.
    given = torch.tensor([[[0.5, 0.0, 0.2, 0.3]], [[0.6, 0.0, 0.2, 0.2]]])
    found = change_name_back(given, names, NOWHERE, BEGUN)[:, 0].tolist()
    assert found == [pytest.approx([0.5, 0.5, 0, 0]), pytest.approx([0.6, 0.2, 0.2, 0])]


def test_the_mean_sums_to_one_without_what_rounding_left_below_zero() -> None:
    # Means: -1e-8, 0.5, 0.5. The first becomes 0; what is left sums to 1.
    given = torch.tensor([[[-2e-8, 0.4, 0.6]], [[0.0, 0.6, 0.4]]])
    assert aggregate(given).tolist() == [pytest.approx([0.0, 0.5, 0.5])]
    assert float(aggregate(given).min()) == 0


def test_whp_lowers_the_name_by_five_after_the_first_mention_and_chooses() -> None:
    # The name's logit 6 is the largest; lowered by 5 it is 1, less than token 0's 2. Before the mention it stays.
    # At 7.5 it is 2.5 once lowered, and still chosen.
    names = NameTokens.of([{2: 1}])
    logits = torch.tensor([[2.0, 0.0, 6.0], [2.0, 0.0, 6.0], [2.0, 0.0, 7.5]])
    before = logits.clone()
    assert whp_choice(logits, names, torch.tensor([False, True, True])).tolist() == [2, 0, 2]
    assert torch.equal(logits, before)
