"""Protects the body's passes by length: the states, the gradients and what they hold on to are those of one pass."""

import pytest
import torch
from torch import nn

from expunge.training.body_passes import apart, passes, states_in_passes


@pytest.mark.parametrize(
    ("lengths", "worth", "expected"),
    [
        ([], 5, [[]]),
        ([2, 9, 9, 3], None, [[1, 2, 3, 0]]),
        # Padded to 9: 36 tokens for 23 real ones. Cut after the two long rows: 18 + 6 = 24.
        ([2, 9, 9, 3], 5, [[1, 2], [3, 0]]),
        ([2, 9, 9, 3], 12, [[1, 2, 3, 0]]),  # the cut saves 36 - 24 = 12 tokens, no more than it costs
        ([8, 1, 4], 1, [[0], [2], [1]]),
    ],
)
def test_rows_are_grouped_where_that_saves_more_than_a_pass_costs(
    lengths: list[int], worth: int | None, expected: list[list[int]]
) -> None:
    assert passes(lengths, worth) == expected


def test_states_come_in_the_order_of_the_rows_and_gradients_are_those_of_one_pass() -> None:
    torch.manual_seed(0)
    ids = torch.tensor([[1, 2, 0, 0], [3, 4, 5, 6], [7, 0, 0, 0], [8, 9, 1, 0]])
    inputs = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    wanted = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 1, 0]]).bool()
    embedding, mixing = nn.Embedding(10, 3), nn.Linear(3, 3)
    shapes = []

    def body(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        assert input_ids.shape == attention_mask.shape
        shapes.append(tuple(input_ids.shape))
        return mixing(embedding(input_ids)).tanh()

    weights = torch.randn(6, 3)
    found = []
    for groups in ([[0, 1, 2, 3]], [[1, 3], [0], [2]]):
        for module in (embedding, mixing):
            module.zero_grad()
        states = states_in_passes(body, inputs, wanted, groups)
        (states * weights).sum().backward()
        found.append((states.detach(), embedding.weight.grad, mixing.weight.grad))
    assert shapes == [(4, 4), (2, 4), (1, 2), (1, 1)]  # each group as wide as its longest row
    for one, two in zip(*found, strict=True):
        assert one is not None and two is not None
        torch.testing.assert_close(one, two)


def test_the_backward_pass_of_a_group_ends_before_the_next_begins() -> None:
    # y = w (a + b): a hook on w sees the gradients of both passes one after the other (4 and 9), not their sum.
    weight = nn.Parameter(torch.tensor(2.0))
    seen: list[float] = []
    weight.register_hook(lambda grad: seen.append(float(grad)))
    (weight * 4 + apart(weight * 9)).backward()
    assert sorted(seen) == [4.0, 9.0]
    assert float(weight.grad or 0) == 13.0


def test_states_without_a_gradient_stay_as_they_are() -> None:
    states = torch.ones(2)
    assert apart(states) is states
