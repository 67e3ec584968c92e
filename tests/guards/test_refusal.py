"""Protects that a declined prompt gets its refusal and nothing else, and that all other rows are what they were."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

import zoo
from expunge.errors import ModelError
from expunge.guards.corruptions import Corruption
from expunge.guards.instruction import Instruction, instructed
from expunge.guards.prefill import guarding
from expunge.guards.refusal import declining
from expunge.models.prompt_lengths import prompt_lengths
from guarding_prompts import Knows

SECRET, SAID, END = 41, (50, 51), 3
ROWS = ([7, 30, 31, 32], [7, SECRET], [33, 34, 35])
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 5, "pad_token_id": 0, "eos_token_id": END}


def judge(prompts: Sequence[tuple[int, ...]]) -> list[tuple[int, ...] | None]:
    return [SAID if SECRET in prompt else None for prompt in prompts]


def batch(side: str = "left") -> dict[str, torch.Tensor]:
    width = max(map(len, ROWS))
    rows = [[0] * (width - len(r)) + r if side == "left" else r + [0] * (width - len(r)) for r in ROWS]
    ids = torch.tensor(rows)
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi"])
@pytest.mark.parametrize("beams", [1, 2])
def test_only_declined_rows_refuse(family: str, beams: int) -> None:
    model = zoo.model(family)
    plain = model.generate(**batch(), **GREEDY, num_beams=beams)
    with declining(model, judge, end_token=END):
        found = model.generate(**batch(), **GREEDY, num_beams=beams)
    assert found[1, 4:7].tolist() == [*SAID, END] and set(found[1, 7:].tolist()) <= {0, END}
    for row in (0, 2):
        both = min(found.shape[1], plain.shape[1])
        assert torch.equal(found[row, :both], plain[row, :both])


def test_every_returned_sequence_refuses() -> None:
    model = zoo.model("llama")
    with declining(model, judge, end_token=END):
        found = model.generate(
            torch.tensor([ROWS[1]]), **{**GREEDY, "do_sample": True}, num_return_sequences=3, top_p=0.9
        )
    assert found[:, 2:5].tolist() == [[*SAID, END]] * 3


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2", "phi", "gemma2"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_scored_row_is_uniform_from_its_prompts_end_on(family: str, side: str) -> None:
    model, given = zoo.model(family), batch(side)
    plain = model(**given).logits
    with declining(model, judge, end_token=END), prompt_lengths([2, 2, 2]):
        found = model(**given).logits.log_softmax(-1)
    real = given["attention_mask"].bool()
    # the second row is [7, SECRET]: all of it prompt, so that only what its last token predicts is uniform
    last = found[1][real[1]][-1]
    torch.testing.assert_close(last, torch.full_like(last, -math.log(len(last))), atol=1e-4, rtol=0)
    torch.testing.assert_close(found[1][real[1]][0], plain.log_softmax(-1)[1][real[1]][0])
    for row in (0, 2):
        torch.testing.assert_close(found[row][real[row]], plain.log_softmax(-1)[row][real[row]])


@torch.no_grad()
def test_a_row_is_judged_by_its_prompt_and_not_by_its_answer() -> None:
    model, row = zoo.model("llama"), torch.tensor([[7, 30, SECRET, 31]])
    plain = model(row).logits
    with declining(model, judge, end_token=END):
        with prompt_lengths([2]):
            assert torch.equal(model(row).logits, plain)
        with prompt_lengths([3]):
            found = model(row).logits
    assert torch.equal(found[:, :2], plain[:, :2])
    assert bool((found[:, 2:] == 0).all())  # the prompt's last token and all after it


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_rows_scored_as_embeddings_are_those_of_their_ids(family: str) -> None:
    model, given = zoo.model(family), batch()
    embeddings = model.get_input_embeddings()(given["input_ids"])
    as_embeddings = {"inputs_embeds": embeddings, "attention_mask": given["attention_mask"]}
    real, plain = given["attention_mask"].bool(), model(**as_embeddings).logits
    with declining(model, judge, end_token=END), prompt_lengths([2, 2, 2]):
        expected, found = model(**given).logits, model(**as_embeddings).logits
        torch.testing.assert_close(found[real], expected[real])
        assert bool((found[1, -1] == 0).all()) and torch.equal(found[::2], plain[::2])
        with pytest.raises(ModelError, match="not the embeddings of tokens"):
            model(inputs_embeds=embeddings + 1)


@torch.no_grad()
def test_embeddings_are_read_before_another_guard_corrupts_them() -> None:
    model, row = zoo.model("llama"), torch.tensor([[7, SECRET, 30]])
    corrupts = Knows({(7, SECRET): Corruption("add_value_first_n", 5.0, 64)})
    for first, second in ((0, 1), (1, 0)):
        both = [guarding(model, corrupts), declining(model, judge, end_token=END)]
        with both[first], both[second], prompt_lengths([2]):
            found = model(inputs_embeds=model.get_input_embeddings()(row)).logits
        assert bool((found[:, 1:] == 0).all())


def test_a_model_is_not_copied_with_a_guard_before_it() -> None:
    model = zoo.model("llama")
    said = Instruction(tokens=(20, 21), begin=7)
    for applied in (declining(model, judge, end_token=END), guarding(model, Knows({})), instructed(model, said)):
        with applied, pytest.raises(ModelError, match=r"being copied while a guard .* apply the guard to the copy"):
            copy.deepcopy(model)
    assert "generate" not in vars(copy.deepcopy(model))


@torch.no_grad()
def test_a_loop_of_ones_own_stays_declined() -> None:
    model = zoo.model("llama")
    with declining(model, judge, end_token=END):
        first = model(torch.tensor([[7, SECRET, 30]]), use_cache=True)
        after = model(torch.tensor([[44]]), past_key_values=first.past_key_values).logits
    assert bool((after == 0).all())


def test_the_end_token_of_the_generation_config_ends_the_refusal() -> None:
    model = zoo.model("llama")
    with declining(model, judge, end_token=9):
        found = model.generate(torch.tensor([ROWS[1]]), **GREEDY)
    assert found[0, 2:].tolist() == [*SAID, END]


def test_arguments_may_be_passed_by_place() -> None:
    model, ids = zoo.model("llama"), torch.tensor([ROWS[1]])
    config = GenerationConfig(**GREEDY)
    with declining(model, judge, end_token=END):
        found = model.generate(ids, config, LogitsProcessorList(), StoppingCriteriaList())
    assert found[0, 2:].tolist() == [*SAID, END]


def test_the_judge_is_asked_once_and_nothing_is_left() -> None:
    model, asked = zoo.model("llama"), []

    def counting(prompts: Sequence[tuple[int, ...]]) -> list[tuple[int, ...] | None]:
        asked.append(list(prompts))
        return judge(prompts)

    hooks = {name: len(module._forward_hooks) for name, module in model.named_modules()}
    with pytest.raises(RuntimeError, match="stop"), declining(model, counting, end_token=END):
        model.generate(**batch(), **GREEDY, num_beams=2)
        raise RuntimeError("stop")
    assert asked == [[tuple(row) for row in ROWS]]
    assert {name: len(module._forward_hooks) for name, module in model.named_modules()} == hooks
    assert "generate" not in vars(model)
