"""Protects the scoring of continuations: right log-probabilities in batches, rows shared, prompt lengths exact."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import zoo
from expunge.errors import ConfigError, ModelError
from expunge.evaluation.continuations import score_continuations
from expunge.models.prompt_lengths import known_prompt_lengths

# The first three share the row 5 6 7 with 3 tokens of context; the fourth has the same ids and another boundary.
PAIRS = [
    ([5, 6, 7], [8]),
    ([5, 6, 7], [0]),
    ([5, 6, 7], [11]),
    ([5, 6], [7, 9]),
    ([12, 13, 14, 15, 16, 17], [18, 19, 20]),
    ([3], [4, 5]),
    ([0, 9, 0], [0, 0]),  # the id that pads
]


def by_hand(model: Any, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """One pair alone: log-probabilities of the whole sequence, summed where the continuation stands."""
    ids = torch.tensor([context + continuation])
    with torch.no_grad():
        logps = model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
    total, greedy = 0.0, True
    for place, token in enumerate(continuation, start=len(context)):
        total += float(logps[place - 1, token])
        greedy &= int(logps[place - 1].argmax()) == token
    return total, greedy


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mixtral"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_batches_give_what_one_by_one_gives(family: str, batch_size: int) -> None:
    model = zoo.model(family)
    best = int(model(torch.tensor([[5, 6, 7]])).logits[0, -1].argmax())
    pairs = [*PAIRS, ([5, 6, 7], [best])]
    seen: list[int] = []
    found = score_continuations(model, pairs, batch_size=batch_size, advance=seen.append)
    for one, (context, continuation) in zip(found, pairs, strict=True):
        logp, greedy = by_hand(model, context, continuation)
        assert one.logp == pytest.approx(logp, abs=2e-5)
        assert (one.greedy, one.cut) == (greedy, 0)
    assert found[-1].greedy
    assert sum(seen) == len(pairs)


def test_every_forward_is_told_the_lengths_of_its_own_rows() -> None:
    model = zoo.model("llama")
    seen: list[tuple[list[int], list[int]]] = []

    def look(_: Any, __: Any, given: dict[str, Any]) -> None:
        ids, mask = given["input_ids"], given.get("attention_mask")
        lengths = known_prompt_lengths(len(ids)) if mask is not None else None
        if lengths is not None:
            for row, real, length in zip(ids, mask, lengths, strict=True):
                kept = row[real.bool()].tolist()
                seen.append((kept[:length], kept[length:]))

    handle = model.get_decoder().register_forward_pre_hook(look, with_kwargs=True)
    score_continuations(model, PAIRS, batch_size=3)
    handle.remove()
    # one row for the three pairs that differ in their last token; what is read of a continuation lacks that token
    assert sorted(seen) == sorted(
        [
            ([5, 6, 7], []),
            ([5, 6], [7]),
            ([12, 13, 14, 15, 16, 17], [18, 19]),
            ([3], [4]),
            ([0, 9, 0], [0]),
        ]
    )
    assert known_prompt_lengths(1) is None


def test_a_context_that_is_too_long_loses_its_beginning() -> None:
    model = zoo.model("llama")
    # 4 tokens are read: 2 of the continuation's 3 and the context's last 2
    (found,) = score_continuations(model, [([1, 2, 3, 4, 5, 6], [7, 8, 9])], batch_size=2, most_tokens=4)
    logp, _ = by_hand(model, [5, 6], [7, 8, 9])
    assert found.logp == pytest.approx(logp, abs=2e-5)
    assert found.cut == 4


def test_pairs_that_cannot_be_scored_are_all_named() -> None:
    pairs = [([1], [2]), ([], [2]), ([1], []), ([1, 2], [3, 4, 5, 6])]
    with pytest.raises(ConfigError) as caught:
        score_continuations(zoo.model("llama"), pairs, batch_size=2, most_tokens=3)
    told = str(caught.value)
    assert "3 of 4" in told
    assert "pair 1 has an empty context" in told and "pair 2 has an empty continuation" in told
    assert "pair 3 has a continuation of 4 tokens; the model takes 3" in told


def test_nan_is_an_error() -> None:
    model = zoo.model("llama")
    model.get_output_embeddings().weight.data[:] = float("nan")
    with pytest.raises(ModelError, match="NaN log-probabilities on 1 of 1"):
        score_continuations(model, [([1], [2])], batch_size=1)
