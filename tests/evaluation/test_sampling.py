"""Protects sampling: the nucleus and its shares by hand, a row's draw that no batch changes, generators left alone."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

import zoo
from expunge.data.template import Template
from expunge.evaluation.generation import greedy_answers
from expunge.evaluation.sampling import nucleus_choice, sampled_answers
from expunge.requests import Row
from fitting import rows

LOGITS = torch.tensor([0.3, 0.2, 0.5]).log()  # in order of size: tokens 2, 0, 1


@pytest.mark.parametrize(
    ("top_p", "draw", "token"),
    [
        # Running sums .5, .8, 1.
        (1.0, 0.0, 2),
        (1.0, 0.49, 2),
        (1.0, 0.51, 0),
        (1.0, 0.79, 0),
        (1.0, 0.81, 1),
        (1.0, 0.9999999, 1),
        # top_p .7: .5 is not enough, .8 is; scaled to 1 the sums are .625, 1.
        (0.7, 0.62, 2),
        (0.7, 0.63, 0),
        (0.7, 0.9999999, 0),
        # top_p .5 (and anything below): the likeliest alone.
        (0.49, 0.99, 2),
        (1e-6, 0.99, 2),
    ],
)
def test_choices_by_hand(top_p: float, draw: float, token: int) -> None:
    assert nucleus_choice(LOGITS[None], torch.tensor([draw]), 1.0, top_p).item() == token


def test_temperature_by_hand() -> None:
    # T 1/2 squares the shares: .09, .04, .25 over .38: in order .6579, .8947, 1.
    logits = LOGITS.expand(4, 3)
    draws = torch.tensor([0.65, 0.66, 0.89, 0.9])
    assert nucleus_choice(logits, draws, 0.5, 1.0).tolist() == [2, 0, 0, 1]


def test_evenly_spread_draws_give_the_distribution() -> None:
    logits = torch.randn(7, generator=torch.Generator().manual_seed(0))
    draws = (torch.arange(10_000) + 0.5) / 10_000
    chosen = nucleus_choice(logits.expand(10_000, 7), draws, 1.3, 1.0)
    torch.testing.assert_close(chosen.bincount(minlength=7) / 10_000, (logits / 1.3).softmax(-1), atol=1e-4, rtol=0)


def test_logits_of_minus_infinity_are_never_chosen() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf]])
    assert nucleus_choice(logits, torch.tensor([0.9999999]), 5.0, 1.0).item() == 1


@functools.cache
def model() -> Any:
    return zoo.model("llama")


def sampled(some: tuple[Row, ...], seeds: list[tuple[int, ...]], **changed: Any) -> list[str]:
    tokenizer = zoo.tokenizer("llama")
    settings: dict[str, Any] = {"max_new_tokens": 8, **changed}
    answers = sampled_answers(model(), tokenizer, Template.of(tokenizer), some, seeds=seeds, **settings)
    return [f"{answer.tokens}" for answer in answers]


def test_a_row_gets_the_same_answer_in_any_batch() -> None:
    some = rows(5, "forget")
    seeds = [(0, i) for i in range(5)]
    together = sampled(some, seeds)
    assert together == [sampled((row,), [seed])[0] for row, seed in zip(some, seeds, strict=True)]
    assert together[::-1] == sampled(some[::-1], seeds[::-1])
    assert together != sampled(some, [(1, i) for i in range(5)])
    assert len(set(sampled((some[0],) * 5, seeds))) == 5


def test_the_nucleus_of_one_token_is_greedy() -> None:
    tokenizer = zoo.tokenizer("llama")
    greedy = greedy_answers(model(), tokenizer, Template.of(tokenizer), rows(3, "forget"), max_new_tokens=8)
    assert sampled(rows(3, "forget"), [(0, i) for i in range(3)], top_p=1e-9) == [f"{a.tokens}" for a in greedy]


def test_generators_and_the_models_own_settings_are_left_alone() -> None:
    torch.manual_seed(5)
    before, own = torch.get_rng_state(), model().generation_config.to_dict()
    sampled(rows(2, "forget"), [(0,), (1,)])
    assert torch.equal(torch.get_rng_state(), before)
    assert model().generation_config.to_dict() == own
