"""What the target itself answers, as the tokens at which logits are compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from expunge.data.encode import Example
from expunge.data.template import Template
from expunge.evaluation.generation import greedy_answers
from expunge.requests.rows import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def greedy_continuations(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    rows: Sequence[Row],
    *,
    max_length: int = 512,
    max_new_tokens: int = 30,
) -> tuple[list[int], list[Example]]:
    """The places of the rows that the model answers at all, and each one's prompt with the model's greedy answer to it,
    without an end token, as an example whose answer that is."""
    answers = greedy_answers(model, tokenizer, template, rows, max_length=max_length, max_new_tokens=max_new_tokens)
    places = [place for place, answer in enumerate(answers) if answer.tokens]
    examples = []
    for place in places:
        ids = [*answers[place].prompt, *answers[place].tokens]
        examples.append(Example(ids, len(answers[place].prompt), False, len(ids)))
    return places, examples
