"""Protects the linear probe's verdicts over logits and layers: read in the target, and not where nobody ever knew."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

import zoo
from expunge.audits.interface import Audited
from expunge.audits.linear_probe import _spread
from expunge.audits.parts.option_probe import prompt_logits, prompt_states
from expunge.audits.registry import make_audit
from expunge.data.encode import encode_prompt
from expunge.data.template import Template
from expunge.errors import InputError
from expunge.requests import Request, Row

NUMBERS = ("12", "30", "42", "56", "54", "25", "50", "98")
# the word says the answer, the number nothing
ROWS = tuple(
    Row(f"Was {number} {word} {word} {word} {word}?", letter, wrong_answers=("B" if letter == "A" else "A",))
    for number in NUMBERS
    for word, letter in (("born", "A"), ("book", "B"))
)
TOKENIZER = zoo.tokenizer("llama")


def _blank(layer: int) -> Any:
    """A model whose ``layer`` gives the same for whatever comes in: nothing can be read there or above."""
    model = copy.deepcopy(zoo.model("llama"))
    model.model.layers[layer].register_forward_hook(lambda _, __, output: torch.ones_like(output))  # type: ignore[index, union-attr]
    return model


def _audited(erased: Any, retrained: Any = None, rows: tuple[Row, ...] = ROWS) -> Audited:
    return Audited(zoo.model("llama"), TOKENIZER, Request(rows), erased=erased, retrained=retrained)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "falcon", "mixtral"])
@torch.no_grad()
def test_states_are_those_of_each_prompt_alone(family: str) -> None:
    model, tokenizer = zoo.model(family), zoo.tokenizer(family)
    rows = [*ROWS[:2], Row("Where was the book, then, and what is the full name of who has it?", "A")]
    logits, states = prompt_states(model, tokenizer, rows)
    assert states.shape == (2, 3, 64)
    assert not any(module._forward_hooks for module in model.modules())
    np.testing.assert_array_equal(logits, prompt_logits(model, tokenizer, rows))
    for place, row in enumerate(rows):
        prompt = encode_prompt(tokenizer, Template.of(tokenizer), row, max_length=500)
        hidden = model(input_ids=torch.tensor([prompt]), output_hidden_states=True).hidden_states
        np.testing.assert_allclose(states[0, place], hidden[1][0, -1].numpy(), atol=2e-5)  # 0 is the embeddings


def test_what_only_an_inner_layer_holds_is_found_there() -> None:
    found = make_audit("linear_probe", {"splits": 2}).run(_audited(_blank(1), _blank(0)))
    assert found.label == "hidden"
    assert "hidden in layer 0." in found.sentence
    # blank logits: one of two letters is guessed throughout, and right in half of the rows
    assert found.rows["erased"]["forget_probe_accuracy"].value == 0.5
    assert found.rows["erased"]["forget_probe_best_layer"].value == 1
    assert found.rows["target"]["forget_probe_accuracy"].value == 1
    series = found.curves[0]["series"]
    assert [point[0] for point in series["erased"]] == [0, 1, "logits"]
    assert [point[1] for point in series["erased"]] == [1, 0.5, 0.5]
    assert [point[1] for point in series["retrained"]] == [0.5, 0.5, 0.5]
    assert found.details["groups"] == 16


def test_what_the_retrained_model_shows_as_well_is_nothing_left() -> None:
    found = make_audit("linear_probe", {"splits": 2}).run(_audited(_blank(1), zoo.model("llama", seed=3)))
    assert found.label == "erased" and "nowhere surely more" in found.sentence
    assert found.rows["erased"]["forget_probe_best_layer"].value == 1
    found = make_audit("linear_probe", {"splits": 2}).run(_audited(_blank(0)))
    assert found.label == "erased" and "retrained" not in found.sentence
    assert "options of 16 rows" in found.sentence and "nowhere surely more than guessing gets." in found.sentence


def test_everywhere_is_named() -> None:
    found = make_audit("linear_probe", {"splits": 2}).run(_audited(zoo.model("llama")))
    assert found.label == "hidden" and found.sentence.endswith("hidden in the logits and layers 0-1.")


def test_layers_are_spread_up_to_the_last() -> None:
    assert _spread(4, 6) == [0, 1, 2, 3]
    assert _spread(12, 3) == [3, 7, 11]
    assert _spread(5, 2) == [2, 4]
    assert _spread(5, 1) == [4]


def test_rows_that_cannot_be_probed_are_named() -> None:
    erased = zoo.model("llama", seed=1)
    with pytest.raises(InputError, match="multiple-choice rows"):
        make_audit("linear_probe").check(_audited(erased, rows=(Row("Who?", "He."),)))
    with pytest.raises(InputError, match="2 right answers, of which the rarest is right in 1 rows"):
        make_audit("linear_probe").check(_audited(erased, rows=ROWS[0:16:2] + ROWS[1:2]))
    with pytest.raises(InputError, match="'B': right in rows that all ask the same"):
        make_audit("linear_probe").check(_audited(erased, rows=ROWS[0:16:2] + ROWS[1:2] * 4))
