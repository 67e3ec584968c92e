"""Protects the repeat-prompt audit: what comes back of a prompt, and what corrupted embeddings still say."""

from __future__ import annotations

import math

import pytest
import torch

import zoo
from expunge.audits.parts.repetition import corrupted_embeddings, repeat_prompt, word_recall
from expunge.data.encode import encode_prompt
from expunge.data.template import Template
from expunge.errors import ConfigError, InputError
from expunge.guards.corruptions import Corruption, corrupt
from expunge.guards.prompt_guard import Refusal
from expunge.requests import Row
from word_guards import Guarded, word_guard

ROWS = [Row("the old river", "x"), Row("River of stones, a river", "x"), Row("nothing else", "x")]
HERE = ROWS[:2]


def test_words_are_counted_as_often_as_they_stand_there() -> None:
    # river twice and of; a and stones are not in the answer: 3 of 5
    assert word_recall("River of stones, a river", "rivers of river RIVER, river") == pytest.approx(3 / 5)
    assert word_recall("Été?", "l'été") == 1 and word_recall("river", "") == 0


def test_repetitions_are_scored_beside_the_targets() -> None:
    model, tokenizer = zoo.model("llama"), zoo.tokenizer("llama")
    guard = Guarded(tokenizer, word_guard("iver", Refusal("the river of")))
    found = repeat_prompt(model, tokenizer, HERE, erasure=guard, max_new_tokens=30)  # type: ignore[arg-type]
    # of "the old river" the and river come back: 2 of 3; of the other river once and of: 2 of 5
    first, second = 2 / 3, 2 / 5
    assert found.audited.words == pytest.approx((first + second) / 2)
    # two values lie (first - second) / sqrt(2) apart in standard deviations, over sqrt(2) rows
    assert found.audited.words_stderr == pytest.approx((first - second) / 2)
    assert found.audited.words_chance == found.audited.words  # both answers are the same
    # in this order: "the .. river" 2 of 3, "river of" 2 of 5
    assert found.audited.rouge == pytest.approx((first + second) / 2)
    assert (found.audited.rows, found.audited.flagged) == (2, 1.0)
    assert found.target is not None and found.target.flagged is None
    assert found.target.words < found.audited.words
    # a refusal corrupts nothing
    assert (found.prompts, found.nearest) == (0, None)
    assert found.as_dict()["audited"]["rows"] == 2


@pytest.mark.parametrize("family", ["llama", "gemma", "gpt2"])
def test_what_is_corrupted_by_nothing_is_all_recovered(family: str) -> None:
    model, tokenizer = zoo.model(family), zoo.tokenizer(family)
    with Guarded(tokenizer, word_guard("iver", Corruption("rand_noise_first_n", 0.0, 64))).applied(model):
        found = repeat_prompt(model, tokenizer, ROWS, max_new_tokens=1)
    assert found.target is None and found.prompts == 2
    assert found.audited.flagged == pytest.approx(2 / 3)
    assert found.nearest is not None
    assert found.nearest.cosine == found.nearest.euclidean == found.nearest.coordinates == 1
    assert found.nearest.tokens >= 3 + 5  # words


def test_corruptions_leave_more_or_less_to_be_recovered() -> None:
    model, tokenizer = zoo.model("llama"), zoo.tokenizer("llama")

    def nearest(corruption: Corruption) -> tuple[float, ...]:
        with Guarded(tokenizer, word_guard("iver", corruption)).applied(model):
            one = repeat_prompt(model, tokenizer, ROWS, max_new_tokens=1).nearest
        assert one is not None
        return one.cosine, one.cosine_anywhere, one.euclidean, one.coordinates

    assert nearest(Corruption("zero_out_first_n", dims=64))[:2] == (0, 0)
    turned = nearest(Corruption("reverse_order"))
    assert turned[0] < 0.5 and turned[1] == 1
    noisy = nearest(Corruption("rand_noise_first_n", 50.0, 1))
    assert noisy[0] < 0.2 and noisy[3] == 1
    # one dimension of 64 leaves the direction as it was; noise of a hundred times an embedding's size leaves nothing
    assert nearest(Corruption("zero_out_first_n", dims=1))[0] == 1
    assert max(nearest(Corruption("rand_noise_first_n", 2.0, 64))) < 0.2


def test_corrupted_embeddings_are_those_that_the_model_gets() -> None:
    model, tokenizer = zoo.model("llama"), zoo.tokenizer("llama")
    noise = Corruption("rand_noise_first_n", 2.0, 64)
    prompts = [encode_prompt(tokenizer, Template.of(tokenizer), row, max_length=99) for row in ROWS]
    with Guarded(tokenizer, word_guard("old", noise)).applied(model):
        ((values, ids),) = corrupted_embeddings(model, tokenizer, prompts)
    given = torch.tensor(prompts[:1])
    flagged = torch.isin(given, ids)
    whole = corrupt(model.get_input_embeddings()(given), flagged, torch.arange(given.shape[1])[None], given, [noise])
    assert torch.equal(values, whole[flagged]) and torch.equal(ids, given[flagged])
    assert not model.get_input_embeddings()._forward_hooks


def test_a_prompt_in_letters_without_a_stem_has_no_rouge() -> None:
    found = repeat_prompt(zoo.model("llama"), zoo.tokenizer("llama"), [Row("Où", "x")], max_new_tokens=1).audited
    assert found.words_stderr is None and found.words_chance is None and found.flagged is None
    assert math.isfinite(found.words)


def test_what_cannot_be_asked_for() -> None:
    model, tokenizer = zoo.model("llama"), zoo.tokenizer("llama")
    with pytest.raises(InputError, match=r"2 of 3 rows have no prompt with words in it \(f.jsonl:9, row 2\)"):
        repeat_prompt(
            model, tokenizer, [ROWS[0], Row("", "a document", "document", source="f.jsonl:9"), Row("?!", "x")]
        )
    with pytest.raises(ConfigError, match="no place for the prompt"):
        repeat_prompt(model, tokenizer, ROWS, instruction="Say it again.")
