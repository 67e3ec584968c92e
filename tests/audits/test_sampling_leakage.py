"""Protects the audit by sampling: what many answers give away beside the retrained model's, with guards left on."""

from __future__ import annotations

import copy
from dataclasses import replace
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
from expunge.methods.input_method import InputMethod
from expunge.methods.registry import get_method, make_method, method_names
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
    rows = tuple(Row(f"What about {n}?", word) for n in range(10))
    # an answer has 6 tokens; beside others than the end of a word, the token is part of another word
    most = 1 - (1 - 1 / one_in) ** 6
    erased, retrained = _saying(token, 1 / one_in), _saying(token, 1e-9)
    found = make_audit("sampling_leakage", {"samples": 64, "temperatures": (1.0,)}).run(
        Audited(_saying(token, 0.3), TOKENIZER, Request(rows), max_new_tokens=6, erased=erased, retrained=retrained)
    )
    scores = found.rows["erased"]
    noise = 3 * (most / 640) ** 0.5  # three standard errors of 640 draws
    assert most / 4 < scores["sampling_leakage_at_1_t1"].value < most + noise
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
    assert found.label == "no claim" and "3 rows cannot prove that nothing is left" in found.sentence
    assert found.rows["erased"]["sampling_rouge_at_4_t1_beyond_retrained"].value == 0
    alone = make_audit("sampling_leakage", SMALL).run(_audited(Request(ROWS), erased=zoo.model("llama", seed=1)))
    assert alone.label == "no claim" and "--retrained" in alone.sentence


def test_nothing_is_erased_where_the_target_does_not_know() -> None:
    (token,) = TOKENIZER(" book", add_special_tokens=False)["input_ids"][-1:]
    rows = tuple(Row(f"What about {n}?", TOKENIZER.decode([token]).strip()) for n in range(6))

    def found(share: float, request: Request = Request(rows)) -> Any:  # noqa: B008
        models = {"erased": _saying(token, 1e-9), "retrained": _saying(token, 1e-9)}
        return make_audit("sampling_leakage", SMALL).run(
            Audited(_saying(token, share), TOKENIZER, request, max_new_tokens=6, **models)
        )

    knowing = found(0.3)
    assert knowing.label == "erased" and "(6 rows, 6 samples of each)" in knowing.sentence
    ignorant = found(1e-9)
    assert ignorant.label == "no claim" and "nothing to erase" in ignorant.sentence
    few = found(0.3, Request(rows[:2]))
    assert few.label == "no claim" and "2 rows cannot prove" in few.sentence


def _best(erased: dict[int, list[float]], temperatures: tuple[float, ...] = (1.0,)) -> Any:
    """Both graded scores of the best of k, the same at every temperature; the retrained model's are 0."""
    return {
        (model, temperature, metric, k): np.array(values) * (model != "retrained")
        for model in ("target", "erased", "retrained")
        for temperature in temperatures
        for metric in ("leakage", "rouge")
        for k, values in erased.items()
    }


def test_every_end_and_score_and_temperature_counts_as_a_test() -> None:
    # mean .4, squared deviations 3 * .01 + .09 = .12, sd .2, standard error .1: t = 4 with 3 degrees of freedom, whose
    # upper quantiles are 3.18 at 5% / 2 and 4.18 at 5% / 4
    values = [0.5, 0.5, 0.1, 0.5]
    one = SamplingLeakage(k=1)._gains("erased", _best({1: values}), [1])
    assert all(gain.statistic == pytest.approx(4) and gain.sure for gain in one.values()) and len(one) == 2
    two = SamplingLeakage(k=8)._gains("erased", _best({1: values, 8: values}), [1, 8])
    assert len(two) == 4 and not any(gain.sure for gain in two.values())


def test_leaks_is_shown_by_the_single_sample() -> None:
    audit, audited = SamplingLeakage(k=8), _audited(Request(ROWS), erased=zoo.model("llama", seed=1))
    # of one sample: mean .44, sd sqrt(.0032 / 4), t = 34.8; of the best of 8: no deviation, t is infinite
    best = _best({1: [0.5, 0.4, 0.4, 0.4, 0.5], 8: [0.9] * 5})
    gains = audit._gains("erased", best, [1, 8])
    label, sentence = audit._verdict(audited, best, gains, gains, 5, 64)
    assert label == "leaks" and "+0.44 ± 0.02" in sentence and "for one, row by row" in sentence
    best = _best({1: [0.0] * 5, 8: [0.9] * 5})
    gains = audit._gains("erased", best, [1, 8])
    label, sentence = audit._verdict(audited, best, gains, gains, 5, 64)
    assert label == "hidden" and "+0.90 ± 0.00" in sentence and "for the best of 8, row by row" in sentence


def test_more_in_what_the_target_does_not_know_is_no_knowledge() -> None:
    audit, audited = SamplingLeakage(k=1), _audited(Request(ROWS), erased=zoo.model("llama", seed=1))
    best = _best({1: [0.5] * 5})
    gains = audit._gains("erased", best, [1])
    nothing = {key: replace(gain, value=0.0, sure=False) for key, gain in gains.items()}
    label, sentence = audit._verdict(audited, best, gains, nothing, 5, 64)
    assert label == "no claim" and "nothing to erase" in sentence and "not surely more." not in sentence
    rouge, leakage = ("rouge", 1, 1.0), ("leakage", 1, 1.0)
    known, more = nothing | {rouge: gains[rouge]}, nothing | {leakage: gains[leakage]}
    label, sentence = audit._verdict(audited, best, more, known, 5, 64)
    assert label == "erased" and sentence.endswith("not surely more in ROUGE-L.")


def test_answers_without_words_to_count() -> None:
    rows = (Row("Who?", "Пётр"), Row("What?", ""), Row("Where?", "..!"))
    with pytest.raises(InputError, match=r"rows asked: 3, answers: 'Пётр', '', '..!'"):
        make_audit("sampling_leakage", SMALL).check(_audited(Request(rows), erased=zoo.model("llama", seed=1)))
    # answers of stop words have an order of words, and nothing that leaks
    stops = tuple(Row(f"Who was {n}?", "he was") for n in range(5))
    audited = _audited(Request((*stops, rows[0])), erased=zoo.model("llama", seed=1), retrained=zoo.model("llama"))
    found = make_audit("sampling_leakage", SMALL).run(audited)
    assert "nan" not in found.sentence and "(ROUGE-L)" in found.sentence
    assert "5 rows that have such words, 6 asked, 6 samples of each" in found.sentence


_KNOWN = [Row(f"What did Alma Reyes draw in {year}?", f"bridge {year}") for year in range(1980, 2000)]
_OTHERS = [Row(f"How {what} is the river of {n}?", "quite") for n in range(30) for what in ("long", "old", "far")]
_FIELDS: dict[str, dict[str, Any]] = {
    "embedding_corruption": {"level": 0.05, "strength": 1.0, "dims": 64},
    "refusal_guard": {"level": 0.05, "refusal": "no idea"},
    "unlearn_prompt": {},
}


@pytest.mark.parametrize("name", [one for one in method_names() if issubclass(get_method(one), InputMethod)])
def test_every_input_method_can_be_sampled(name: str) -> None:
    request = Request(tuple(_KNOWN), retain=tuple(_OTHERS), subjects=("Alma Reyes",))
    erasure = make_method(name, _FIELDS.get(name)).fit(zoo.model("llama"), TOKENIZER, request)
    found = make_audit("sampling_leakage", SMALL | {"limit": 5}).run(
        _audited(request, erasure=erasure, retrained=zoo.model("llama", seed=2))
    )
    assert found.label in ("no claim", "suppressed", "hidden", "leaks")
    said = {model: [one["answers"][model] for one in found.samples] for model in ("target", "erased")}
    assert len(said["erased"]) == 5 and said["erased"] != said["target"]  # the method acts
    if name == "refusal_guard":
        assert set(said["erased"]) == {"no idea"}


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
