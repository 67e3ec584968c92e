"""Protects shared sampling: one prefill for all samples gives what separate generations give, whatever the batch."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
import torch

import zoo
from expunge.audits.parts import shared_samples
from expunge.audits.parts.shared_samples import Draws, drawn_tokens, sampled_texts
from expunge.data.encode import encode_prompt, end_token_ids
from expunge.data.template import Template
from expunge.errors import EncodingError, ModelError
from expunge.guards.instruction import Instruction
from expunge.guards.instruction_guard import InstructionGuard
from expunge.requests import Row

ROWS = [Row("Who was born?", "The author."), Row("What is the name of the book, then?", "No."), Row("Where?", "In it.")]
DRAWN = {"samples": 5, "temperature": 0.9, "seed": 3, "max_length": 200, "max_new_tokens": 7}


def test_tokens_are_drawn_in_proportion() -> None:
    # p = (0.5, 0.25, 0.25), running sums 0.5, 0.75, 1
    logits = torch.tensor([[2.0, 1.0, 1.0]]).log().expand(5, 3)
    found = drawn_tokens(logits, torch.tensor([0.0, 0.49, 0.5, 0.74, 0.9999], dtype=torch.float64), 1.0)
    assert found.tolist() == [0, 0, 1, 1, 2]
    # at temperature 0.5 p is in proportion to 4, 1, 1: sums 4/6, 5/6, 1
    found = drawn_tokens(logits[:3], torch.tensor([0.66, 0.67, 0.84], dtype=torch.float64), 0.5)
    assert found.tolist() == [0, 1, 2]
    # what cannot be is never drawn, not even by 0
    found = drawn_tokens(torch.tensor([[-torch.inf, 0.0, -torch.inf]] * 2), torch.tensor([0.0, 0.9999]), 1.0)
    assert found.tolist() == [1, 1]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3", "mistral", "gpt2", "opt", "mpt", "bloom", "mixtral"])
def test_sharing_changes_no_answer(family: str) -> None:
    model, tokenizer = zoo.model(family), zoo.tokenizer(family)
    texts = Template.of(tokenizer)
    rows = [*ROWS, Row("Who has the book " * 18, "He.")]  # longer than the windows of attention, which are 64 tokens
    shared = sampled_texts(model, tokenizer, texts, rows, **DRAWN)
    alone = sampled_texts(model, tokenizer, texts, rows, share=False, **DRAWN)
    assert shared == alone
    assert len({text for some in shared for text in some}) > 10


def test_no_answer_depends_on_its_batch() -> None:
    model, tokenizer = zoo.model("llama"), zoo.tokenizer("llama")
    texts = Template.of(tokenizer)
    every = sampled_texts(model, tokenizer, texts, ROWS, **DRAWN)
    assert [sampled_texts(model, tokenizer, texts, [row], **DRAWN)[0] for row in ROWS] == every
    with patch.object(shared_samples, "rows_that_fit", lambda *_: 2):  # five samples of one prompt in three batches
        assert sampled_texts(model, tokenizer, texts, ROWS, **DRAWN) == every
    more = sampled_texts(model, tokenizer, texts, ROWS, **(DRAWN | {"samples": 8}))
    assert [some[:5] for some in more] == every
    assert sampled_texts(model, tokenizer, texts, ROWS, **(DRAWN | {"seed": 4})) != every


def test_answers_end_where_an_end_token_is_drawn() -> None:
    model, tokenizer = zoo.model("llama"), zoo.tokenizer("llama")
    texts = Template.of(tokenizer)
    with torch.no_grad():  # so that ends come at different steps
        model.lm_head.weight[tokenizer.eos_token_id] = 30 * model.lm_head.weight[5]
    longer = DRAWN | {"samples": 40, "max_new_tokens": 12}
    shared = sampled_texts(model, tokenizer, texts, ROWS, **longer)
    assert shared == sampled_texts(model, tokenizer, texts, ROWS, share=False, **longer)
    lengths = {len(text) for some in shared for text in some}
    assert 0 in lengths and len(lengths) > 5


def test_draws_belong_to_seed_prompt_and_sample() -> None:
    numbers = Draws(0, [1, 2], 4, 6).of([0, 1])
    assert numbers.shape == (2, 6) and numbers.dtype == torch.float64
    np.testing.assert_array_equal(Draws(0, [1, 2], 9, 6).of([1])[0], numbers[1])
    others = [Draws(1, [1, 2], 4, 6).of([0])[0], Draws(0, [1, 3], 4, 6).of([0])[0], numbers[1]]
    assert not any(torch.equal(one, numbers[0]) for one in others)


def test_numbers_count_from_the_answers_first_token_also_behind_an_instruction() -> None:
    model, tokenizer = zoo.model("llama"), zoo.tokenizer("llama")
    texts, words = Template.of(tokenizer), "You know nothing of the book."
    with InstructionGuard(words, "auto").active(model, tokenizer):
        found = sampled_texts(model, tokenizer, texts, ROWS, share=False, **DRAWN)
    instruction, ends = Instruction.of(tokenizer, words, "auto"), end_token_ids(tokenizer, texts)
    assert len(instruction.tokens) > DRAWN["max_new_tokens"]  # so that counting them would leave no number
    for row, some in zip(ROWS, found, strict=True):
        prompt = encode_prompt(tokenizer, texts, row, max_length=200)
        at = instruction.place(prompt)
        for numbers, text in zip(Draws(3, prompt, 5, 7).of(range(5)), some, strict=True):
            ids = [*prompt[:at], *instruction.tokens, *prompt[at:]]
            begin = len(ids)
            for number in numbers:  # without a cache
                with torch.no_grad():
                    logits = model(torch.tensor([ids])).logits[:, -1]
                token = int(drawn_tokens(logits, number[None], 0.9))
                if token in ends:
                    break
                ids.append(token)
            assert tokenizer.decode(ids[begin:], skip_special_tokens=True).strip() == text


def test_all_prompts_that_are_too_long_are_told() -> None:
    tokenizer = zoo.tokenizer("gpt2")
    texts = Template.of(tokenizer)
    rows = [Row("word " * 30, "yes", source="a.jsonl:1"), Row("a", "b"), Row("word " * 40, "yes", source="a.jsonl:3")]
    tokens = [len(encode_prompt(tokenizer, texts, row, max_length=10_000)) for row in rows]
    told = rf"2 of 3 prompts: a.jsonl:1 \({tokens[0]}\), a.jsonl:3 \({tokens[2]}\)"
    model = zoo.model("gpt2", max_position_embeddings=24)
    with pytest.raises(ModelError, match=told + r".*none leaves room for an answer.*takes 24 tokens"):
        sampled_texts(model, tokenizer, texts, rows, **DRAWN)
    with pytest.raises(EncodingError, match=told + r".*longer than max_length 25.*training.max_length"):
        sampled_texts(zoo.model("gpt2"), tokenizer, texts, rows, **(DRAWN | {"max_length": 25}))
    # as many tokens as the model takes are too many: no token of the answer is left
    model = zoo.model("gpt2", max_position_embeddings=tokens[0])
    with pytest.raises(ModelError, match="2 of 3 prompts"):
        sampled_texts(model, tokenizer, texts, rows, **DRAWN)
