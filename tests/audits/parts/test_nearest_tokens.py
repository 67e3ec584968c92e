"""Protects what is read back off corrupted embeddings: shares by hand, for both distances, in place and anywhere."""

from __future__ import annotations

import pytest
import torch

from expunge.audits.parts.nearest_tokens import nearest_tokens

TABLE = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 3.0], [-1.0, 0.0]])


def test_shares_by_hand() -> None:
    embeddings = torch.tensor([[0.9, 0.2], [0.5, 0.6], [-0.1, 0.2]])
    ids = torch.tensor([0, 2, 1])
    found = nearest_tokens([embeddings], [ids], TABLE)
    # cosines: (.9, .2) with token 0 .98, with 2 .84; (.5, .6) with 2 .99; (-.1, .2) with 1 .89, with 3 .45: all three.
    # distances: (.9, .2) to 0 .22; (.5, .6) to 1 .64, to 0 .78, to 2 3.5; (-.1, .2) to 1 .81, to 3 .92: all but one
    assert found is not None
    assert (found.tokens, found.cosine, found.euclidean) == (3, 1.0, pytest.approx(2 / 3))
    assert (found.cosine_anywhere, found.euclidean_anywhere) == (1.0, pytest.approx(2 / 3))
    assert found.coordinates == 0 and found.as_dict()["tokens"] == 3


def test_another_order_is_seen_through_and_prompts_are_kept_apart() -> None:
    # the first prompt's tokens 0 and 1 change places; of the second, 1 and 1, one became the first prompt's 0
    embeddings = [TABLE[[1, 0]], TABLE[[1, 0]]]
    found = nearest_tokens(embeddings, [torch.tensor([0, 1]), torch.tensor([1, 1])], TABLE)
    assert found is not None
    assert found.cosine == found.euclidean == 0.25
    assert found.cosine_anywhere == found.euclidean_anywhere == 0.75


def test_great_noise_in_one_dimension_is_seen_through() -> None:
    # token 1 with 50 in its first dimension points to and lies near token 2; its second coordinate is still its own
    found = nearest_tokens([torch.tensor([[50.0, 1.0]])], [torch.tensor([1])], TABLE)
    assert found is not None
    assert (found.cosine, found.euclidean, found.coordinates, found.coordinates_anywhere) == (0, 0, 1, 1)


def test_ties_zeros_and_nothing() -> None:
    twins = torch.cat([TABLE, TABLE[:1]])  # 0 and 4 are the same
    same = nearest_tokens([TABLE[[0, 0]]], [torch.tensor([0, 4])], twins)
    assert same is not None and same.cosine == same.euclidean == 1
    # zero is at distance 1 from tokens 0, 1 and 3 alike and from 2 farther, has no direction, and shares a coordinate
    # with 0, 1 and 3
    zero = nearest_tokens([torch.zeros(2, 2)], [torch.tensor([3, 2])], TABLE)
    assert zero is not None
    assert (zero.cosine, zero.cosine_anywhere, zero.euclidean, zero.coordinates) == (0, 0, 0.5, 0.5)
    assert nearest_tokens([], [], TABLE) is None
    assert nearest_tokens([torch.zeros(0, 2)], [torch.zeros(0, dtype=torch.long)], TABLE) is None
