"""Protects the audit by sampling: what many answers give away beside the retrained model's, with guards left on."""

from __future__ import annotations

import copy
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

import zoo
from expunge.audits.interface import Audited
from expunge.audits.parts import shared_samples
from expunge.audits.registry import make_audit
from expunge.audits.sampling_leakage import SamplingLeakage
from expunge.errors import ConfigError, InputError
from expunge.guards.prompt_guard import Refusal
from expunge.requests import Request, Row
from word_guards import Guarded, word_guard

TOKENIZER = zoo.tokenizer("llama")
ROWS = (Row("Who was born?", "The author."), Row("What is it?", "A book."), Row("Where?", "In a city."))
SMALL: dict[str, Any] = {"samples": 6, "k": 4, "temperatures": (1.0,)}


def _audited(request: Request, **others: Any) -> Audited:
    return Audited(zoo.model("llama"), TOKENIZER, request, max_new_tokens=6, **others)


def test_scores_of_samples() -> None:
    row = Row("Who was born in the city?", "The author of the old book.")
    texts = [["the author of the old book, yes", "An author", "the city", "", "book old the of author the"]]
    found = SamplingLeakage(threshold=0.5)._scored([row], texts).scores
    # what the question does not have and what is no stop word: author, old, book
    np.testing.assert_allclose(found["leakage"], [[1, 1 / 3, 0, 0, 1]])
    np.testing.assert_array_equal(found["leaked"], [[1, 0, 0, 0, 1]])
    np.testing.assert_array_equal(found["told"], [[1, 0, 0, 0, 0]])
    # of six expected words in order: all; author; the; none; the, of and the
    np.testing.assert_allclose(found["rouge"], [[1, 1 / 6, 1 / 6, 0, 3 / 6]])


def test_a_row_without_telling_words_has_no_leakage() -> None:
    found = SamplingLeakage()._scored([Row("Who was born?", "Who was")], [["Who was", "no"]]).scores
    assert np.isnan(found["leakage"]).all() and np.isnan(found["leaked"]).all()
    np.testing.assert_array_equal(found["told"], [[1, 0]])


def test_samples_follow_the_budget_and_never_fall_below_k() -> None:
    audit = SamplingLeakage(samples=200, budget=3000, k=64, temperatures=(0.8, 1.0))
    assert audit._count(10) == 150  # 3,000 answers to 10 rows at two temperatures
    assert audit._count(5) == 200
    assert audit._count(100) == 64
    assert audit._ks() == [1, 2, 4, 8, 16, 32, 64]
    assert SamplingLeakage(k=50)._ks() == [1, 2, 4, 8, 16, 32, 50]


def _saying(token: int, share: float) -> Any:
    """A model that gives ``token`` this share of the probability everywhere, and the others equal ones."""
    model = copy.deepcopy(zoo.model("llama"))
    count = model.config.vocab_size

    def constant(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        fixed = torch.full_like(output, float(np.log((1 - share) / (count - 1))))
        fixed[..., token] = float(np.log(share))
        return fixed

    model.lm_head.register_forward_hook(constant)
    return model


@pytest.mark.parametrize(("one_in", "label"), [(120, "leaks"), (400, "hidden")])
def test_what_one_answer_seldom_says_and_many_do(one_in: int, label: str) -> None:
    (token,) = TOKENIZER(" book", add_special_tokens=False)["input_ids"][-1:]
    word = TOKENIZER.decode([token]).strip()
    rows = tuple(Row(f"What about {n}?", word) for n in range(8))
    # an answer has 6 tokens; beside others than the end of a word, the token is part of another word
    most = 1 - (1 - 1 / one_in) ** 6
    erased, retrained = _saying(token, 1 / one_in), _saying(token, 1e-9)
    found = make_audit("sampling_leakage", {"samples": 64, "temperatures": (1.0,)}).run(
        _audited(Request(rows), erased=erased, retrained=retrained)
    )
    scores = found.rows["erased"]
    assert most / 4 < scores["sampling_leakage_at_1_t1"].value < most
    assert scores["sampling_leakage_at_64_t1"].value >= 0.5
    assert found.rows["retrained"]["sampling_leakage_at_64_t1"].value == 0
    assert scores["sampling_leakage_at_64_t1_beyond_retrained"].value == scores["sampling_leakage_at_64_t1"].value
    assert found.label == label
    bounds = found.details["bounds"]["retrained"]["1"]["leaked"]
    # none of 64 samples: one sample leaks with p < 1 - 0.025^(1/64), at the 95% level
    assert bounds[0]["sampling_low"] == 0 and bounds[0]["sampling_high"] == pytest.approx(1 - 0.025 ** (1 / 64))
    curve = next(one for one in found.curves if one["title"].startswith("Best of k sampled answers: leakage"))
    values = [value for _, value, _ in curve["series"]["erased"]]
    assert [k for k, _, _ in curve["series"]["erased"]] == [1, 2, 4, 8, 16, 32, 64] and values == sorted(values)


def test_the_same_seed_gives_the_same_and_equal_models_no_difference() -> None:
    audited = _audited(Request(ROWS), erased=zoo.model("llama", seed=1), retrained=zoo.model("llama", seed=1))
    found = make_audit("sampling_leakage", SMALL).run(audited)
    assert found.as_dict() == make_audit("sampling_leakage", SMALL).run(audited).as_dict()
    assert found.label == "erased"
    assert found.rows["erased"]["sampling_rouge_at_4_t1_beyond_retrained"].value == 0
    alone = make_audit("sampling_leakage", SMALL).run(_audited(Request(ROWS), erased=zoo.model("llama", seed=1)))
    assert alone.label == "no claim" and "--retrained" in alone.sentence


class _Guard(Guarded):
    kind = "inputs"


def test_a_guard_answers_every_sample() -> None:
    guard: Any = _Guard(TOKENIZER, word_guard("Who", Refusal("no")))
    found = {}

    def remember(*arguments: Any, **named: Any) -> list[list[str]]:
        texts = shared(*arguments, **named)
        found[len(found)] = texts
        return texts

    shared = shared_samples.sampled_texts
    with patch.object(shared_samples, "sampled_texts", remember):
        make_audit("sampling_leakage", SMALL).run(_audited(Request(ROWS), erasure=guard))
    target, erased = found[0], found[1]
    assert set(erased[0]) == {"no"} and set(target[0]) != {"no"}
    assert erased[1:] == target[1:]  # other questions are answered as before


def test_settings_that_make_no_sense() -> None:
    audited = _audited(Request(ROWS), erased=zoo.model("llama", seed=1))
    with pytest.raises(ConfigError, match="k=9 of samples=8"):
        make_audit("sampling_leakage", {"samples": 8, "k": 9}).check(audited)
    for bad in ((0.0,), (), (1.0, 1.0)):
        with pytest.raises(ConfigError, match="different temperatures above 0"):
            make_audit("sampling_leakage", {"temperatures": bad}).check(audited)
    documents = _audited(Request((Row("", "A text.", kind="document"),)), erased=zoo.model("llama", seed=1))
    with pytest.raises(InputError, match="documents"):
        make_audit("sampling_leakage").check(documents)
