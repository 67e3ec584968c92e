"""Protects the shared prefix: a cache that is filled once gives what every prompt gives alone, in unlike families."""

from __future__ import annotations

import pytest

import zoo
from expunge.audits.parts.shared_prefix import can_share, common_prefix, prefix_answers
from expunge.data.batches import pad_id
from expunge.data.encode import encode_all
from expunge.data.template import Template
from expunge.evaluation.generation import greedy_answers
from expunge.evaluation.metrics.probability import probability
from expunge.evaluation.outputs import score_examples
from expunge.models.state import evaluating
from expunge.requests import Row

TURNS = tuple(
    turn for i in range(4) for turn in (("user", f"Where is town {i}?"), ("assistant", f"By the river, mile {i}."))
)
ROWS = [
    Row("Who wrote The Amber Tide, a novel about fishermen?", "It was Mira Tolvanen, in 1956.", history=TURNS),
    Row("Where was Mira Tolvanen born?", "In Turku.", history=TURNS),
    Row("Really?", "Yes", history=TURNS),
]
FAMILIES = (*zoo.ISSUE_FAMILIES, "mistral", "gemma3", "mpt", "bloom", "falcon")


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_each_whole_prompt(family: str) -> None:
    model, tokenizer = zoo.model(family), zoo.tokenizer(family)
    texts = Template.of(tokenizer)
    assert can_share(model)
    found = prefix_answers(model, tokenizer, texts, ROWS, max_length=500, max_new_tokens=12)
    assert found.shared > 30
    with evaluating(model):
        for row, text, likely in zip(ROWS, found.texts, found.probabilities, strict=True):
            alone = greedy_answers(model, tokenizer, texts, [row], max_length=500, max_new_tokens=12)
            assert text == alone[0].text
            scores = score_examples(model, encode_all(tokenizer, texts, [row], max_length=500), pad_id(tokenizer))
            assert likely == pytest.approx(probability(scores[0]), rel=2e-4)


def test_what_rows_have_in_common_leaves_a_token_of_each() -> None:
    assert common_prefix([[1, 2, 3, 4], [1, 2, 5]]) == 2
    assert common_prefix([[1, 2, 3], [1, 2, 3]]) == 2
    assert common_prefix([[1], [1, 2]]) == 0
    assert common_prefix([[3, 1], [4, 1]]) == 0
