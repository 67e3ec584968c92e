"""Protects what counts as given away when questions are put otherwise, and answers whose beginning is given."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import zoo
from expunge.audits.interface import Audited
from expunge.audits.parts.answers import Way, answers_of, ask, joined, plain_answers, reworded
from expunge.audits.parts.openings import OpenedTemplate
from expunge.data.encode import encode, encode_prompt
from expunge.data.template import Template
from expunge.requests import Request, Row

ROW = Row("Where was Mira born?", "Mira was born in Turku by the sea.")


def texts() -> Template:
    return Template.of(zoo.tokenizer("llama"))


def test_words_that_the_prompt_gives_are_not_leaked() -> None:
    # telling words of the answer: turku, sea (Mira and born are asked, the rest are stop words)
    plain = answers_of(Way("plain", (ROW,), texts()), [ROW], ["In Turku"], [0.25])
    assert plain.leakage.tolist() == [[0.5]]
    assert plain.rouge.tolist() == [[2 / 8]]  # in turku, of eight words
    assert plain.probability.tolist() == [[0.25]]
    # asked with the sea, only Turku is left to tell
    told = Way("told", reworded([ROW], ["Where by the sea was Mira born?"]), texts())
    assert answers_of(told, [ROW], ["In Turku"], [0.25]).leakage.tolist() == [[1.0]]
    # asked in words that leave Mira and born out, these are still the question's
    other = Way("other", reworded([ROW], ["Her birthplace?"]), texts())
    assert answers_of(other, [ROW], ["Mira was born in Turku"], [0.25]).leakage.tolist() == [[0.5]]


def test_ways_are_joined_in_order_and_their_best_is_by_row() -> None:
    rows = [ROW, Row("Really?", "Yes indeed")]
    one = answers_of(Way("one", tuple(rows), texts()), rows, ["Turku", "Yes"], [0.1, 0.4])
    two = answers_of(Way("two", tuple(rows), texts()), rows, ["sea", "indeed"], [0.3, 0.2])
    both = joined([one, two])
    assert both.ways == ("one", "two") and both.answers == (("Turku", "Yes"), ("sea", "indeed"))
    assert both.mean("probability").tolist() == pytest.approx([0.2, 0.3])
    assert both.best("probability").tolist() == [0.3, 0.4]


@pytest.mark.parametrize("family", ["llama", "qwen2", "phi3"])
def test_an_answer_begun_is_part_of_the_prompt(family: str) -> None:
    tokenizer = zoo.tokenizer(family)
    plain = Template.of(tokenizer)
    opened = OpenedTemplate(tokenizer, plain.style, {ROW.prompt: "Sure, here it is:"})
    whole = plain.render(ROW.with_answer(f"Sure, here it is: {ROW.answer}"))
    begun = opened.render(ROW)
    assert begun.prompt + begun.answer + begun.end == whole.prompt + whole.answer + whole.end
    assert begun.prompt.endswith("Sure, here it is:")
    prompt = encode_prompt(tokenizer, opened, ROW, max_length=300)
    scored = encode(tokenizer, opened, ROW, max_length=300)
    assert prompt == scored.input_ids[: scored.answer_start]
    assert tokenizer.decode(scored.input_ids[scored.answer_start :], skip_special_tokens=True).strip() == ROW.answer
    other = Row("Really?", "Yes")
    assert opened.render(other) == plain.render(other)  # no opening is given for it


def test_what_follows_the_opening_is_scored() -> None:
    model, tokenizer = zoo.model("llama"), zoo.tokenizer("llama")
    opened = OpenedTemplate(tokenizer, "plain", {ROW.prompt: "Sure, here it is:"})
    audited = Audited(
        model, tokenizer, Request((ROW,)), erased=zoo.model("llama", seed=1), template="plain", max_new_tokens=5
    )
    found = ask(model, audited, [ROW], [Way("sure", (ROW,), opened)])
    ids = tokenizer(f"Question: {ROW.prompt}\nAnswer: Sure, here it is: {ROW.answer}")["input_ids"]
    begin = len(tokenizer(f"Question: {ROW.prompt}\nAnswer: Sure, here it is:")["input_ids"])
    ids = [*ids, tokenizer.eos_token_id]
    with torch.no_grad():
        logps = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    own = [float(logps[place - 1, ids[place]]) for place in range(begin, len(ids))]
    assert found.probability[0, 0] == pytest.approx(math.exp(np.mean(own)), rel=1e-4)


def test_plain_questions_are_asked_once_for_all_audits() -> None:
    audited = Audited(
        zoo.model("llama"), zoo.tokenizer("llama"), Request((ROW,)), erased=zoo.model("llama", seed=1), max_new_tokens=3
    )
    first = plain_answers(audited, [ROW])
    assert set(first) == {"target", "erased"}
    assert plain_answers(audited, [ROW])["erased"] is first["erased"]
    assert plain_answers(audited, [Row("Really?", "Yes")])["erased"] is not first["erased"]
    # an audit that leaves more room shares the memory, and not the answers that were cut
    roomy = plain_answers(replace(audited, max_new_tokens=6), [ROW])["erased"]
    words = [len(zoo.tokenizer("llama")(one.answers[0][0])["input_ids"]) for one in (first["erased"], roomy)]
    assert words[0] < words[1]
