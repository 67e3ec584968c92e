"""Protects the linear probe of a guarded model: logits at each prompt's end, read by halves, beside the target's."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch

import zoo
from expunge.audits.parts.option_probe import linear_probe, prompt_logits
from expunge.data.encode import encode_prompt
from expunge.data.template import Template
from expunge.errors import InputError
from expunge.guards.corruptions import Corruption
from expunge.guards.prompt_guard import Refusal
from expunge.requests import Row
from word_guards import Guarded, word_guard

NUMBERS = ("12", "30", "42", "56", "54", "25", "50", "98")
# the word says the answer, the number nothing
ROWS = [
    Row(f"Was {number} {word} {word} {word} {word}?", letter, wrong_answers=("B" if letter == "A" else "A",))
    for number in NUMBERS
    for word, letter in (("born", "A"), ("book", "B"))
]
BLANK = Corruption("zero_out_first_n", dims=64)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("guarded", [False, True])
def test_logits_are_those_of_each_prompt_alone(family: str, guarded: bool) -> None:
    model, tokenizer = zoo.model(family), zoo.tokenizer(family)
    rows = [*ROWS[:3], Row("Where was the book, then, and what is the full name of who has it?", "A")]
    template = Template.of(tokenizer)
    guard = Guarded(tokenizer, word_guard("book", Corruption("rand_noise_first_n", 3.0, 64)))
    with guard.applied(model) if guarded else nullcontext():
        found = prompt_logits(model, tokenizer, rows)
        for row, logits in zip(rows, found, strict=True):
            prompt = encode_prompt(tokenizer, template, row, max_length=500)
            # generate reads the whole prompt, as the guard does
            one = model.generate(
                torch.tensor([prompt]), max_new_tokens=1, do_sample=False, output_logits=True,
                return_dict_in_generate=True,
            )  # fmt: skip
            np.testing.assert_allclose(logits, one.logits[0][0].numpy(), atol=2e-5)
    plain = prompt_logits(model, tokenizer, rows)
    assert [not np.array_equal(one, other) for one, other in zip(plain, found, strict=True)] == [
        guarded and "book" in row.prompt for row in rows
    ]


@pytest.mark.parametrize("action", [BLANK, Refusal("no")])
def test_what_the_target_shows_is_not_read_out_of_what_a_guard_blanks(action: Corruption | Refusal) -> None:
    model, tokenizer = zoo.model("llama"), zoo.tokenizer("llama")
    lengths = {len(encode_prompt(tokenizer, Template.of(tokenizer), row, max_length=500)) for row in ROWS}
    assert len(lengths) == 1, "blanked prompts differ in their length"
    found = linear_probe(model, tokenizer, ROWS, erasure=Guarded(tokenizer, word_guard("Was", action)), splits=2)  # type: ignore[arg-type]
    assert found.target is not None
    assert found.target.accuracy > 0.9 and found.target.readable
    # every prompt gives the same logits, so that one of the two letters is guessed throughout: it is right in half
    assert found.audited.accuracy == 0.5 and not found.audited.readable
    assert (found.audited.rows, found.audited.classes, found.audited.chance) == (16, 2, 0.5)
    assert found.as_dict()["audited"]["accuracy"] == 0.5


def test_a_model_is_audited_as_it_stands() -> None:
    model, tokenizer = zoo.model("llama"), zoo.tokenizer("llama")
    with Guarded(tokenizer, word_guard("Was", BLANK)).applied(model):
        found = linear_probe(model, tokenizer, ROWS, splits=2)
    assert found.target is None and found.audited.accuracy == 0.5


def test_rows_without_options_are_named() -> None:
    rows = [*ROWS, Row("What?", "A", source="f.jsonl:3"), Row("Who?", "B")]
    with pytest.raises(InputError, match=r"2 of 18 rows have no wrong answers \(f.jsonl:3, row 17\)"):
        linear_probe(zoo.model("llama"), zoo.tokenizer("llama"), rows)
    with pytest.raises(InputError, match="there are none"):
        linear_probe(zoo.model("llama"), zoo.tokenizer("llama"), [])


def test_noise_that_differs_from_prompt_to_prompt_is_not_undone_by_a_probe() -> None:
    rows = [
        Row(f"Was {number} {word} {word} {word} {word}?", letter, wrong_answers=("B" if letter == "A" else "A",))
        for number in range(10, 42)
        for word, letter in (("born", "A"), ("book", "B"))
    ]
    noise = Corruption("rand_noise_first_n", 3.0, 64)
    found = linear_probe(
        zoo.model("llama"), zoo.tokenizer("llama"), rows, erasure=Guarded(zoo.tokenizer("llama"), word_guard("Was", noise)), splits=2,  # type: ignore[arg-type]  # noqa: E501
    )  # fmt: skip
    assert found.target is not None and found.target.accuracy == 1
    assert not found.audited.readable
