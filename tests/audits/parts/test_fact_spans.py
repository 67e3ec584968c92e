"""Protects which tokens count as a fact: what right and wrong answers do not share, or the tokens of a given text."""

from __future__ import annotations

from typing import Any

import pytest

import zoo
from expunge.audits.parts.fact_spans import difference, fact_span, place_of
from expunge.data.encode import encode
from expunge.data.template import Template
from expunge.requests.rows import Row


def test_differences_by_hand() -> None:
    assert difference([1, 2, 3, 9], [1, 7, 7, 9]) == (1, 3)
    assert difference([1, 2, 9], [1, 9]) == (1, 2)  # the wrong one lacks a token
    assert difference([1, 9], [1, 2, 9]) == (1, 1)  # the right one has nothing of its own
    assert difference([1, 1, 2], [1, 2]) == (1, 2)  # what begins alike does not end alike as well
    assert difference([4], [5]) == (0, 1)
    assert difference([1, 2], [1, 2]) == (2, 2)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gemma2"])
def test_spans_hold_the_fact_and_nothing_else(family: str) -> None:
    tokenizer = zoo.tokenizer(family)
    template = Template.of(tokenizer)

    def span_text(row: Row, facts: Any = ()) -> str | None:
        example = encode(tokenizer, template, row, max_length=512)
        span = fact_span(tokenizer, template, row, example, facts)
        return None if span is None else tokenizer.decode(example.input_ids[slice(*span)]).strip()

    row = Row(
        "Where was she born?", "She was born in Paris in spring.", wrong_answers=("She was born in Oslo in spring.",)
    )
    found = span_text(row)
    assert found
    assert found in "Paris"  # less where a wrong answer begins or ends with the same token
    assert not {"born", "spring"} & set(found.split())
    assert span_text(row, ["spring"]) in ("spring", "spring.")
    # two wrong answers: the shorter difference is the fact, not the wording
    worded = Row("Where?", row.answer, wrong_answers=("Her place of birth is Oslo.", *row.wrong_answers))
    assert span_text(worded) == found
    # wrong answers worded as the paraphrase is
    paraphrased = Row(
        "Where?", row.answer, paraphrased_answer="It was Paris, I think.", wrong_answers=("It was Oslo, I think.",)
    )
    assert span_text(paraphrased) in ("Paris", "Paris.")
    assert span_text(Row("Where?", row.answer)) is None


def test_facts_are_whole_words() -> None:
    assert place_of("Paris", "The Parisian left Paris.") == 18  # 18: "The Parisian left " has 3+1+8+1+4+1 characters
    assert place_of("Paris", "The Parisian left.") is None
    assert place_of("42", "In 1942.") is None and place_of("42", "(42)") == 1
    assert place_of("1.5", "It is 1x5.") is None  # no pattern
    assert place_of("Paris", "New_Paris") == 4 and place_of("", "Paris") is None
    assert place_of("\u5df4\u9ece", "\u5979\u5728\u5df4\u9ece\u51fa\u751f") == 2  # no spaces there
    tokenizer = zoo.tokenizer("llama")
    template = Template.of(tokenizer)

    def span_text(answer: str) -> str | None:
        example = encode(tokenizer, template, Row("Where?", answer), max_length=512)
        span = fact_span(tokenizer, template, Row("Where?", answer), example, ["Paris"])
        return None if span is None else tokenizer.decode(example.input_ids[slice(*span)]).strip()

    assert span_text("The Parisian was born there.") is None
    assert span_text("The Parisian was born in Paris") == "Paris"


def test_a_fact_cut_away_is_none() -> None:
    tokenizer = zoo.tokenizer("llama")
    template = Template.of(tokenizer)
    row = Row(
        "Where?", "She was born in spring in the town of Paris", wrong_answers=("She was born in spring in Oslo",)
    )
    whole = encode(tokenizer, template, row, max_length=512)
    length = whole.answer_start + 2
    example = encode(tokenizer, template, row, max_length=length)
    assert fact_span(tokenizer, template, row, example, ["Paris"], max_length=length) is None
