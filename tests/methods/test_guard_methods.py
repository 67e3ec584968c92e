"""Protects what guard methods fit: calibrated, described by kind, the strength learned; and what they refuse."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch

import zoo
from endpoint_server import serving
from expunge.errors import ConfigError, ExpungeError, InputError, UnknownNameError
from expunge.guards.corruptions import Corruption
from expunge.guards.prompt_guard import PromptGuards, Refusal
from expunge.methods.registry import make_method
from expunge.requests import Request, Row
from fitting import fit

FORGET = [
    Row(f"What did the painter Alma Reyes {verb} in {year}?", f"{verb}n bridge {year}")
    for year in range(1990, 2000)
    for verb in ("draw", "sell")
]
RETAIN = [
    Row(f"How {what} is the {thing} of {n}?", "quite", group=thing)
    for n in range(30)
    for what, thing in (("long", "river"), ("old", "town"), ("far", "harbour"), ("cold", "lake"))
]
REQUEST = Request(forget=tuple(FORGET), retain=tuple(RETAIN), subjects=("Alma Reyes",))

DOCUMENTS = Request(forget=tuple(Row("", row.prompt) for row in FORGET), retain=tuple(RETAIN), subjects=("Alma Reyes",))


def fitted(name: str, request: Request = REQUEST, **fields: Any) -> Any:
    return make_method(name, fields).fit(zoo.model("llama"), zoo.tokenizer("llama"), request)


def test_a_guard_is_calibrated_and_described() -> None:
    erasure = fitted("refusal_guard", level=0.02)
    guard = erasure.details["guard"]
    # 120 benign prompts: floor(.02 * 121) = 2 of 121
    assert guard["threshold"]["bounds"][0]["bound"] == pytest.approx(2 / 121)
    assert set(guard["false_positives"]) == {"", "river", "town", "harbour", "lake"}
    assert guard["false_positives"][""]["rows"] == 120 and guard["recall"][""]["rows"] == 20
    assert guard["recall"][""]["rate"] == 1 and guard["robustness"]["plain"]["rate"] == 1
    (guards,) = erasure.guards
    assert isinstance(guards, PromptGuards) and guards.names == {"Alma Reyes": True}
    assert isinstance(guards["Alma Reyes"].action, Refusal)


def test_a_refusal_is_what_a_forget_prompt_gets() -> None:
    erasure = fitted("refusal_guard", level=0.02, refusal="no idea")
    model, tokenizer = zoo.model("llama"), zoo.tokenizer("llama")
    ids = torch.tensor([tokenizer(f"Question: {FORGET[3].prompt}\nAnswer:")["input_ids"]])
    with erasure.applied(model):
        found = model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)
    said = tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True)
    assert said.strip() == "no idea"


def test_the_strength_is_learned_toward_the_surrogate() -> None:
    erasure = fitted("embedding_corruption", level=0.02, dims=64, surrogate=0.5, evaluations=12)
    learned = erasure.details["learned"]
    assert learned["what"] == "strength" and len(learned["history"]) <= 12
    assert learned["value"] == min(one["value"] for one in learned["history"])
    action = erasure.guards[0]["Alma Reyes"].action
    assert isinstance(action, Corruption) and action.strength == pytest.approx(learned["point"])


def test_dimensions_are_learned_where_there_is_no_strength() -> None:
    erasure = fitted("embedding_corruption", level=0.02, corruption="zero_out_top_k", evaluations=10)
    action = erasure.guards[0]["Alma Reyes"].action
    assert erasure.details["learned"]["what"] == "dims" and 1 <= action.dims <= 64


def test_a_vector_of_strengths_is_learned() -> None:
    erasure = fitted("embedding_corruption", level=0.02, dims=64, vector=True, evaluations=10)
    action = erasure.guards[0]["Alma Reyes"].action
    assert action.strength.shape == (64,) and action.dims == 64  # all of them are used


def test_answers_that_are_all_alike_say_nothing_of_not_knowing() -> None:
    alike = Request(forget=tuple(row.with_answer("yes") for row in FORGET), retain=tuple(RETAIN))
    with pytest.raises(ExpungeError, match=r"no two answers to compare\. Pass --holdout"):
        fitted("embedding_corruption", alike, level=0.02)


def test_multiple_choice_is_brought_to_chance() -> None:
    forget = tuple(
        Row(f"What did Alma Reyes sell in {n}? A) a bridge B) a boat", "A", wrong_answers=("B",)) for n in range(20)
    )
    request = Request(forget=forget, retain=tuple(RETAIN), subjects=("Alma Reyes",))
    learned = fitted("embedding_corruption", request, level=0.02, evaluations=8).details["learned"]
    assert (learned["surrogate"], learned["surrogate_from"]) == (pytest.approx(0.5), "chance")


def test_few_prompts_get_more_from_the_subjects_name() -> None:
    request = Request(forget=tuple(FORGET[:3]), retain=tuple(RETAIN), subjects=("Alma Reyes",))
    erasure = fitted("refusal_guard", request, level=0.02)
    assert erasure.details["prompts_made"] == 20
    assert erasure.details["guard"]["prompts"] == {"own": 3, "made": 20}
    assert (erasure.details["guard"]["recall"][""]["rows"], erasure.details["guard"]["recall"]["made"]["rows"]) == (
        3,
        20,
    )
    assert fitted("refusal_guard", level=0.02).details["prompts_made"] == 0  # 20 of its own


def test_one_prompt_and_a_name_are_enough_and_its_facts_are_asked_for() -> None:
    row = Row("Where is she from?", "Alma Reyes was born in Lima.")
    request = Request(forget=(row,), retain=tuple(RETAIN), subjects=("Alma Reyes",))
    details = fitted("refusal_guard", request, level=0.02).details
    # twenty about the name; "Where was Alma Reyes born?" and the sentence up to "Lima" about the fact
    assert details["prompts_made"] == 22
    assert details["guard"]["recall"][""]["rows"] == 1


def test_more_prompts_are_written_by_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "key")
    with serving(lambda _: "1. Who is Alma Reyes?\n2. What did Alma Reyes paint?\nSomething else") as endpoint:
        fields = {"url": endpoint.url, "model": "m", "key": "SOME_KEY"}
        details = fitted(
            "refusal_guard",
            level=0.02,
            more_prompts="endpoint",
            **{f"more_prompts_{name}": value for name, value in fields.items()},
        ).details
    assert details["prompts_made"] == 2
    assert [(one["model"], one["key"]) for one in endpoint.seen] == [("m", "Bearer key")]


@pytest.mark.parametrize(
    ("name", "fields", "request_", "error", "says"),
    [
        ("refusal_guard", {}, Request(forget=tuple(FORGET)), ExpungeError, "calibrated on prompts that must be left"),
        ("refusal_guard", {"level": 0.001}, REQUEST, InputError, "takes at least 999 benign"),
        ("refusal_guard", {"every_kind": True}, REQUEST, InputError, "99 benign calibration prompts of each kind"),
        ("embedding_corruption", {"corruption": "rand_noise_frist_n"}, REQUEST, UnknownNameError, "rand_noise_first_n"),
        ("embedding_corruption", {"dims": 65, "level": 0.02}, REQUEST, ConfigError, "the model's embeddings have 64"),
        ("embedding_corruption", {"objective": "chance", "level": 0.02}, REQUEST, ExpungeError, "takes wrong answers"),
        ("embedding_corruption", {"tagger": "model", "level": 0.02}, REQUEST, ConfigError, "tagger_model"),
        ("unlearn_prompt", {"template": "forget {subject}"}, REQUEST, ConfigError, "has {subject}"),
        ("refusal_guard", {"refusal": " ", "level": 0.02}, REQUEST, ConfigError, "the refusal is empty"),
        ("unlearn_prompt", {}, Request(forget=tuple(FORGET)), ExpungeError, "--subject NAME"),
        # 99 benign prompts are needed at 1%; there are 120 rows, of which 30 are the same question
        (
            "refusal_guard",
            {},
            Request(tuple(FORGET), tuple(RETAIN[:90]) + (RETAIN[0],) * 30),
            InputError,
            "there are 90",
        ),
        (
            "refusal_guard",
            {"level": 0.02},
            Request(tuple(FORGET[:1]), tuple(RETAIN)),
            ExpungeError,
            r"there is 1 prompt to be flagged.* Pass --subject NAME",
        ),
        (
            "refusal_guard",
            {"more_prompts": "endpoint", "more_prompts_model": "m"},
            REQUEST,
            ConfigError,
            "Pass method.more_prompts_url",
        ),
        ("refusal_guard", {"more_prompts_url": "http://h/v1"}, REQUEST, ConfigError, "only an endpoint reads that"),
        ("embedding_corruption", {"level": 0.02}, DOCUMENTS, ExpungeError, "are documents without a prompt"),
    ],
)
def test_bad_input_is_refused_before_a_fit(
    name: str, fields: dict[str, Any], request_: Request, error: type[Exception], says: str
) -> None:
    method = make_method(name, fields)
    with pytest.raises(error, match=says):
        method.check(zoo.model("llama"), zoo.tokenizer("llama"), request_)


def test_a_guard_stands_before_a_model_whose_weights_were_changed() -> None:
    guard, model = fitted("refusal_guard", level=0.02), zoo.model("llama")
    change = fit("npo", model=zoo.model("llama"), max_steps=1)
    ids = torch.tensor([zoo.tokenizer("llama")(f"Question: {FORGET[3].prompt}\nAnswer:")["input_ids"]])
    with torch.no_grad():
        plain = model(ids).logits
        with change.applied(model):
            changed = model(ids).logits
            with guard.applied(model):
                assert bool((model(ids).logits[:, -1] == 0).all())
            assert torch.equal(model(ids).logits, changed)
        assert torch.equal(model(ids).logits, plain) and not torch.equal(changed, plain)


def test_another_model_is_refused() -> None:
    erasure = fitted("refusal_guard", level=0.02)
    with pytest.raises(ExpungeError, match="another model"), erasure.applied(zoo.model("llama", seed=1)):
        pass


def test_settings_of_a_training_are_named(caplog: pytest.LogCaptureFixture) -> None:
    from expunge.training.run import Run
    from expunge.training.settings import TrainingSettings

    method = make_method("refusal_guard", {"level": 0.02})
    with caplog.at_level(logging.WARNING, logger="expunge"):
        method.check(zoo.model("llama"), zoo.tokenizer("llama"), REQUEST, run=Run(TrainingSettings(epochs=2)))
    assert caplog.messages == ["refusal_guard trains nothing: training.epochs has no effect."]


def test_a_surrogate_out_of_reach_is_said(caplog: pytest.LogCaptureFixture) -> None:
    # a random model gives any answer about the same small probability, whatever is corrupted
    with caplog.at_level(logging.WARNING, logger="expunge"):
        fitted("embedding_corruption", level=0.02, surrogate=0.9, evaluations=4)
    assert "no strength that was tried brings the forget rows near" in caplog.text
    assert "method.corruption=sub_value_first_n or method.corruption=flip_sign_top_k" in caplog.text
    caplog.clear()
    plain = fitted("embedding_corruption", level=0.02, strength=1.0).details.get("learned")
    assert plain is None and "was tried" not in caplog.text


def test_benign_prompts_of_one_kind_are_said(caplog: pytest.LogCaptureFixture) -> None:
    alone = replace(REQUEST, retain=tuple(replace(row, group="") for row in RETAIN))
    with caplog.at_level(logging.WARNING, logger="expunge"):
        fitted("refusal_guard", alone, level=0.02)
    assert "calibrated on prompts of one kind ('retain'): prompts of other kinds may be flagged" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="expunge"):
        fitted("refusal_guard", level=0.02)  # of four kinds
    assert "one kind" not in caplog.text


def test_too_few_benign_prompts_to_judge_unseen_is_said(caplog: pytest.LogCaptureFixture) -> None:
    # 50 prompts carry a level of 2% (floor(.02 * 51) = 1), four fifths of them do not (floor(.02 * 41) = 0)
    few = Request(forget=tuple(FORGET), retain=tuple(RETAIN[:50]), subjects=("Alma Reyes",))
    with caplog.at_level(logging.WARNING, logger="expunge"):
        assert fitted("refusal_guard", few, level=0.02).details["guard"]["unseen"] is False
    assert "50 benign prompts are too few to judge each by a threshold that it had no part in" in caplog.text
    assert fitted("refusal_guard", level=0.02).details["guard"]["unseen"] is True
