"""Protects what the target is asked, and which token learns from which place of which text."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

import zoo
from expunge.data.encode import Example, encode
from expunge.data.template import Rendered, Template
from expunge.requests import Row
from expunge.teachers.names import Subject
from expunge.teachers.plans import NameStarts, Plan, name_plan, prompted_plan, swapped_plan

FAMILIES = ("llama", "gpt2", "gemma", "qwen2")
SUBJECT = Subject("Marta Quill")
DOCUMENT = Row("", "Marta Quill lived by the river. In the town Quill was known; she sold the boats.", "document")
QUESTION = Row("Who sold the boats by the river?", "The boats were sold by Marta Quill in the town.")
every_family = pytest.mark.parametrize("family", FAMILIES)


def given(family: str, row: Row) -> tuple[NameStarts, Example, Rendered]:
    tokenizer = zoo.tokenizer(family)
    template = Template.of(tokenizer, "plain")
    return NameStarts(tokenizer), encode(tokenizer, template, row, max_length=512), template.render(row)


def planned(family: str, row: Row, *names: str) -> Plan:
    starts, example, text = given(family, row)
    return swapped_plan(0, example, text, SUBJECT, names, starts, 512)


def texts(family: str, plan: Plan) -> list[str]:
    decode = partial(zoo.tokenizer(family).decode, skip_special_tokens=True)
    return [decode(list(one)) for one in plan.asked]


@every_family
def test_every_taught_token_is_read_where_the_same_tokens_stand_in_every_text(family: str) -> None:
    plan = planned(family, DOCUMENT, "Ida Vandermeer", "Bo Li")
    _, example, _ = given(family, DOCUMENT)
    assert [("Ida" in text, "Li " in text, "Quill" in text) for text in texts(family, plan)] == [
        (True, False, False),
        (False, True, False),
    ]
    assert len(plan.places) > 5
    assert plan.places.tolist() == sorted(set(plan.places.tolist()))
    for asked, at in zip(plan.asked, plan.at, strict=True):
        for place, where in zip(plan.places.tolist(), at.tolist(), strict=True):
            own = place + example.answer_start - 1  # the place that foresees the token
            assert asked[where] == example.input_ids[own]


@every_family
def test_a_name_and_a_pronoun_are_what_stands_next(family: str) -> None:
    plan = planned(family, DOCUMENT, "Ida Vandermeer", "Bo Li")
    _, example, _ = given(family, DOCUMENT)
    tokens = example.input_ids[example.answer_start :]
    decode = zoo.tokenizer(family).decode
    standing = {
        place: token for place, token in zip(plan.places.tolist(), plan.standing.tolist(), strict=True) if token >= 0
    }
    assert all(tokens[place] == token for place, token in standing.items())
    after = [decode(tokens[place:]).strip() for place in standing]
    assert any(text.startswith("Quill was known") for text in after)
    assert any(text.startswith("she sold") for text in after)
    assert len(standing) in (2, 3)  # and the full name, where a token stands before it
    if len(standing) == 3:
        assert after[0].startswith("Marta Quill")
    assert bool(plan.begun.all())  # the text begins with the name


@every_family
def test_before_the_first_mention_nothing_has_begun(family: str) -> None:
    plan = planned(family, QUESTION, "Ida Vandermeer")
    _, example, _ = given(family, QUESTION)
    decode = zoo.tokenizer(family).decode
    tokens = example.input_ids[example.answer_start :]
    begun = [place for place, now in zip(plan.places.tolist(), plan.begun.tolist(), strict=True) if now]
    assert decode(tokens[begun[0] :]).strip().startswith("Marta Quill")
    assert plan.places[~plan.begun].tolist() == list(range(begun[0]))


@every_family
def test_a_text_without_the_name_is_asked_about_once(family: str) -> None:
    plan = planned(family, Row("", "The river runs by the town.", "document"), "Ida Vandermeer", "Bo Li")
    _, example, _ = given(family, Row("", "The river runs by the town.", "document"))
    assert len(plan.asked) == 1
    assert plan.places.tolist() == list(range(example.answer_length))
    assert not plan.begun.any()


@every_family
def test_the_names_words_are_taught_by_the_answer_alone(family: str) -> None:
    starts, example, text = given(family, QUESTION)
    plan = name_plan(0, example, text, SUBJECT, ("Ida Vandermeer", "Bo Li"), starts, 512)
    assert plan is not None
    decode = zoo.tokenizer(family).decode
    tokens = example.input_ids[example.answer_start :]
    assert [decode(tokens[place:]).strip()[:5] for place in plan.places.tolist()] == ["Marta", "Quill"]
    for asked, at, first in zip(plan.asked, plan.at.tolist(), ("Ida", "Bo"), strict=True):
        before = [decode(list(asked[: where + 1]), skip_special_tokens=True) for where in at]
        assert [text.strip() for text in before] == ["The boats were sold by", f"The boats were sold by {first}"]


def test_a_prompt_that_says_the_name_needs_no_name_plan() -> None:
    starts, example, text = given("llama", Row("Who is Marta Quill?", "Marta Quill sold boats."))
    assert name_plan(0, example, text, SUBJECT, ("Ida Vandermeer",), starts, 512) is None


@every_family
def test_name_tokens_stand_for_the_subjects_first_name(family: str) -> None:
    starts = NameStarts(zoo.tokenizer(family))
    moves = starts.moves(SUBJECT, "Ida Vandermeer", {})
    spaced, bare = starts.of("Marta")
    assert set(moves.values()) <= {spaced, bare}
    assert {moves[starts.of(word)[0]] for word in ("Ida", "Vandermeer")} == {spaced}
    ids = zoo.tokenizer(family)("a Marta", add_special_tokens=False)["input_ids"]
    assert spaced in ids


def test_other_entities_are_swapped_and_stand_for_themselves() -> None:
    starts = NameStarts(zoo.tokenizer("llama"))
    subject = Subject("Marta Quill", others=(("Boats of the River", ("Lantern Hill", "The Town")),))
    _, example, text = given("llama", Row("", "Marta Quill wrote Boats of the River in the town.", "document"))
    plan = swapped_plan(0, example, text, subject, ("Ida Vandermeer", "Bo Li"), starts, 512)
    assert texts("llama", plan) == [
        "Ida Vandermeer wrote Lantern Hill in the town.",
        "Bo Li wrote The Town in the town.",
    ]
    first, second = (starts.moves(subject, "Bo Li", subject.others_for(number)) for number in range(2))
    assert first[starts.of("Lantern")[0]] == starts.of("Boats")[0]
    assert starts.of("The")[0] not in second  # begins too much else


def test_another_prompt_is_read_at_the_same_answer() -> None:
    _, example, _ = given("llama", QUESTION)
    _, told, _ = given("llama", QUESTION.with_prompt("Say nothing. " + QUESTION.prompt))
    plan = prompted_plan(3, example, told)
    assert plan.row == 3
    assert plan.places.tolist() == list(range(example.answer_length))
    assert [plan.asked[0][at + 1] for at in plan.at[0].tolist()] == example.input_ids[example.answer_start :]


def test_what_a_context_cannot_hold_is_not_taught() -> None:
    starts, example, text = given("llama", DOCUMENT)
    whole = swapped_plan(0, example, text, SUBJECT, ("Ida Vandermeer",), starts, 512)
    cut = swapped_plan(0, example, text, SUBJECT, ("Ida Vandermeer",), starts, 12)
    assert len(cut.asked[0]) == 12
    assert cut.places.tolist() == [
        p for p, at in zip(whole.places.tolist(), whole.at[0].tolist(), strict=True) if at < 12
    ]


def test_the_digest_tells_plans_apart() -> None:
    one, same, other = (planned("llama", DOCUMENT, name) for name in ("Bo Li", "Bo Li", "Bo Lind"))
    assert one.digest() == same.digest() != other.digest()
    assert one.without(torch.tensor([one.places[0]])).digest() != one.digest()


def test_a_name_that_the_answer_alone_does_not_mention_has_no_plan_of_its_own() -> None:
    subject = Subject("Will Quill", common=("Will",))
    row = Row("", "Will sold boats.")
    starts, example, text = given("llama", row)
    inside = replace(text, prompt="They say that ")  # after which the name begins no sentence, as it does without it
    assert name_plan(0, example, inside, subject, ("Bo Li",), starts, 512) is None
