"""Protects other answers to forget prompts: how they are drawn, what they never are, the cache of generated ones."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zoo
from expunge.data.template import Template
from expunge.errors import CacheError, RequestError
from expunge.methods.registry import make_method
from expunge.requests import Row
from expunge.training.alternatives import Context, generated, other_answers, refusals, retain_answers
from expunge.training.settings import TrainingSettings
from fitting import bits, rows

FORGET, RETAIN = rows(6, "forget"), rows(9, "retain")
REFUSALS = Path(refusals.__code__.co_filename).with_name("refusals.txt").read_text(encoding="utf-8").splitlines()


def answers(drawn: list[tuple[Row, ...]]) -> list[tuple[str, ...]]:
    return [tuple(row.answer for row in some) for some in drawn]


def test_retain_answers_stand_beside_the_forget_prompts() -> None:
    drawn = retain_answers(FORGET, RETAIN, seed=0)
    for row, some in zip(FORGET, drawn, strict=True):
        assert [one.with_answer("") for one in some] == [row.with_answer("")]
        assert some[0].answer in {other.answer for other in RETAIN} - {row.answer}
    flat = [text for some in answers(drawn) for text in some]
    assert len(set(flat)) == len(flat)  # 9 different retain answers for 6 rows
    assert drawn == retain_answers(FORGET, RETAIN, seed=0)
    assert drawn != retain_answers(FORGET, RETAIN, seed=1)


def test_every_answer_has_its_turn_before_any_comes_again() -> None:
    forget = tuple(Row(f"Question {i}?", "mine") for i in range(10))
    retain = tuple(Row("?", text) for text in "abc")
    counts = Counter(text for some in answers(retain_answers(forget, retain, seed=4)) for text in some)
    assert sorted(counts.values()) == [3, 3, 4]


def test_an_answer_equal_to_the_rows_own_is_never_drawn() -> None:
    forget = (Row("q", "Paris"), Row("q", " pAris "), Row("q", "Rome"))
    retain = (Row("r", "paris"), Row("r", "Rome"), Row("r", "  "))
    for seed in range(20):
        assert answers(retain_answers(forget, retain, seed=seed)) == [("Rome",), ("Rome",), ("paris",)]


def test_several_answers_of_a_row_differ() -> None:
    for seed in range(20):
        drawn = answers(other_answers(FORGET, seed=seed, count=5))
        for row, some in zip(FORGET, drawn, strict=True):
            assert sorted((*some, row.answer)) == sorted(other.answer for other in FORGET)


def test_too_few_other_answers_are_an_error_that_names_the_rows() -> None:
    with pytest.raises(RequestError, match=r"6 of 6 forget rows cannot be given 6 other answers.*forget\.jsonl:1, "):
        other_answers(FORGET, seed=0, count=6)
    with pytest.raises(RequestError, match=r"1 of 1 .*the retain rows have too few"):
        retain_answers((Row("q", "same"),), (Row("r", "Same"),), seed=0)
    with pytest.raises(RequestError, match="the retain rows have too few"):
        retain_answers(FORGET, (), seed=0)


def test_refusals_are_short_different_sentences() -> None:
    assert 60 <= len(REFUSALS) <= 100
    assert len({text.casefold() for text in REFUSALS}) == len(REFUSALS)
    assert all(text == text.strip() and text.endswith(".") and len(text) < 80 for text in REFUSALS)
    drawn = answers(refusals(FORGET, seed=0))
    assert {text for some in drawn for text in some} <= set(REFUSALS)
    assert len(set(drawn)) == len(FORGET)
    assert drawn == answers(refusals(FORGET, seed=0)) != answers(refusals(FORGET, seed=1))


def test_a_completion_keeps_the_white_space_that_joins_it_to_its_prompt() -> None:
    spaced = Row("The capital of France is", " Paris.", kind="completion")
    bound = Row("The capital of France is ", "Paris.", kind="completion")
    retain = (Row("r", "Rome."),)
    assert answers(retain_answers((spaced, bound), retain, seed=0)) == [(" Rome.",), ("Rome.",)]
    assert answers(retain_answers((Row("q", "x"),), (Row("r", " Rome."),), seed=0)) == [(" Rome.",)]


def test_documents_cannot_be_refused_but_can_be_swapped() -> None:
    documents = (Row("", "A text.", kind="document", source="a.txt"),)
    with pytest.raises(RequestError, match=r"1 of 1 forget rows have no prompt that could be refused: a\.txt"):
        refusals(documents, seed=0)
    assert answers(retain_answers(documents, RETAIN[:1], seed=0)) == [(RETAIN[0].answer,)]


def context(family: str = "llama", *, cache: Path | None = None, model: Any = None, **settings: Any) -> Context:
    tokenizer = zoo.tokenizer(family)
    return Context(
        model=model or zoo.model(family),
        tokenizer=tokenizer,
        template=Template.of(tokenizer),
        settings=TrainingSettings(**{"max_new_tokens": 6, **settings}),
        progress=lambda *_: None,
        cache=cache,
    )


def test_generated_answers_are_different_wrong_and_not_empty() -> None:
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index,union-attr]
    given = context()
    given.model.train()
    before = bits(given.model)
    drawn = generated(FORGET, context=given, count=3)
    assert bits(given.model) == before
    assert given.model.training
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index,union-attr]
    assert torch.equal(states[0], after[0])
    assert states[1:] == after[1:]
    for row, some in zip(FORGET, drawn, strict=True):
        keys = {" ".join(one.answer.split()).casefold() for one in some}
        assert len(keys) == 3
        assert not keys & {"", " ".join(row.answer.split()).casefold()}
        assert all(one.with_answer(row.answer) == row for one in some)
    assert drawn == generated(FORGET, context=context(), count=3)
    assert drawn != generated(FORGET, context=context(seed=1), count=3)


class Heart:
    """A stand-in for sampling from a model that knows its answers by heart: below some temperature only the right one
    comes, and then a few others."""

    def __init__(self, warm: float, others: list[str]) -> None:
        self.warm, self.others, self.asked = warm, others, list[tuple[float, int]]()

    def __call__(self, *given: Any, seeds: Any, temperature: float, **_: Any) -> list[Any]:
        from expunge.evaluation.generation import GreedyAnswer

        some = given[3]
        self.asked.append((temperature, len(some)))
        texts = [
            row.answer.upper() if temperature < self.warm else self.others[seed[-1] % len(self.others)]
            for row, seed in zip(some, seeds, strict=True)
        ]
        return [GreedyAnswer(text, (), None, (), 6) for text in texts]


def test_what_is_drawn_again_is_drawn_warmer(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Heart(1.5, ["Here", "there", "", "HERE "])
    monkeypatch.setattr("expunge.evaluation.sampling.sampled_answers", model)
    drawn = answers(generated(FORGET[:1], context=context(), count=2))
    assert drawn == [("Here", "there")]
    assert model.asked == [(1.0, 2), (1.25, 2), (1.5, 2)]


def test_a_model_that_finds_no_other_answer_is_an_error_that_names_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Heart(0.0, ["one", "ONE"])
    monkeypatch.setattr("expunge.evaluation.sampling.sampled_answers", model)
    with pytest.raises(
        RequestError, match=r"fewer than 2 different wrong answers to 2 of 2 .* 3\.75: forget\.jsonl:1, "
    ):
        generated(FORGET[:2], context=context(), count=2)
    assert model.asked[0] == (1.0, 4)
    assert model.asked[1:] == [(1 + 0.25 * i, 2) for i in range(1, 12)]  # one of two is found, the other is missing


def test_a_chat_model_is_asked_for_another_answer_and_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Row] = []

    def sampled(*given: Any, **_: Any) -> list[Any]:
        from expunge.evaluation.generation import GreedyAnswer

        seen.extend(given[3])
        return [GreedyAnswer(f"other {len(seen)}", (), None, (), 6) for _ in given[3]]

    monkeypatch.setattr("expunge.evaluation.sampling.sampled_answers", sampled)
    row = Row("Is {answer} a word?", "Yes {question}", history=(("system", "Be kind."),))
    ask = "Q {question} A {answer}. Another?"
    generated((row,), context=context("qwen2"), count=1, instruction=ask)
    assert seen[-1].prompt == "Q Is {answer} a word? A Yes {question}. Another?"
    assert seen[-1].history == row.history
    generated((row,), context=context("qwen2"), count=1)
    generated((row,), context=context("llama"), count=1, instruction=ask)  # no chat template
    generated((Row("It is", " so", kind="completion"),), context=context("qwen2"), count=1, instruction=ask)
    assert [one.prompt for one in seen[1:]] == [row.prompt, row.prompt, "It is"]


def test_generated_answers_are_kept_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = generated(FORGET, context=context(cache=tmp_path), count=2)
    (file,) = tmp_path.iterdir()
    assert json.loads(file.read_text(encoding="utf-8"))["answers"] == [list(some) for some in answers(first)]

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("nothing is left to be generated")

    with monkeypatch.context() as patch:
        patch.setattr("expunge.evaluation.sampling.sampled_answers", never)
        assert generated(FORGET, context=context(cache=tmp_path), count=2) == first
    # Anything they depend on makes other ones.
    changed = zoo.model("llama", seed=1)
    for other in (context(cache=tmp_path, seed=1), context(cache=tmp_path, model=changed)):
        assert generated(FORGET, context=other, count=2) != first
    generated(FORGET, context=context(cache=tmp_path), count=1)
    generated(FORGET[:3], context=context(cache=tmp_path), count=2)
    generated(FORGET, context=context(cache=tmp_path), count=2, temperature=2.0)
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.parametrize("damage", ["{", '{"answers": []}', "other facts", "lost answer", "number"])
def test_a_damaged_cache_is_an_error(tmp_path: Path, damage: str) -> None:
    generated(FORGET, context=context(cache=tmp_path), count=2)
    (file,) = tmp_path.iterdir()
    kept = json.loads(file.read_text(encoding="utf-8"))
    if damage == "other facts":
        kept["facts"]["weights"] = "0" * 64
    elif damage == "lost answer":
        kept["answers"][0].pop()
    elif damage == "number":
        kept["answers"][0][0] = 7
    file.write_text(damage if damage[0] == "{" else json.dumps(kept), encoding="utf-8")
    with pytest.raises(CacheError, match=rf"{file.name} does not hold 2 answers .* delete it"):
        generated(FORGET, context=context(cache=tmp_path), count=2)


DOCUMENTS = (Row("", "A text.", kind="document", source="a.txt"),)


@pytest.mark.parametrize(
    ("name", "fields", "forget", "retain"),
    [
        ("mismatch", {}, (Row("q", "same"),), (Row("r", "Same"),)),
        ("llmu", {}, (Row("q", "same"),), (Row("r", "Same"),)),
        ("idk", {}, DOCUMENTS, RETAIN),
        ("dpo", {}, DOCUMENTS, RETAIN),
        ("altpo", {}, DOCUMENTS, RETAIN),
        ("sku", {}, FORGET[:5], RETAIN),
    ],
)
def test_methods_say_before_a_fit_which_rows_they_cannot_use(
    name: str, fields: dict[str, Any], forget: tuple[Row, ...], retain: tuple[Row, ...]
) -> None:
    method: Any = make_method(name, fields)
    with pytest.raises(RequestError, match="forget rows"):
        method.check_rows(forget, retain)
    method.check_rows(FORGET, RETAIN)


def test_methods_without_such_a_term_check_nothing() -> None:
    same = (Row("q", "same"),), (Row("r", "same"),)
    for name in ("llmu", "sku"):
        method: Any = make_method(name, {"e2": 0.0})
        method.check_rows(*same)
