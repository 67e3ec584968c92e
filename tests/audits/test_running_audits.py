"""Protects a run of several audits: what is done is kept, what fails is told, what has no time waits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import Field

import zoo
from expunge.audits.interface import Audit, Audited, AuditResult, Paper, method_fields
from expunge.audits.running import chosen_audits, run_audits
from expunge.errors import ConfigError, InputError, ModelError
from expunge.evaluation.types import Score
from expunge.guards.prompt_guard import Refusal
from expunge.models.state import APPLIED, marked
from expunge.requests import Request, Row
from expunge.training.run import Progress, silent
from word_guards import Guarded, word_guard

REQUEST = Request((Row("Where?", "Here"),))
RAN: list[str] = []


@method_fields
class Works(Audit):
    """Finds what it is told to find."""

    name: ClassVar[str] = "works"
    paper: ClassVar[Paper] = Paper("none", "none")
    finds: float = Field(default=0.5, description="what it finds")

    def run(self, audited: Audited, *, progress: Progress = silent) -> AuditResult:  # noqa: ARG002
        RAN.append(self.name)
        return AuditResult({"erased": {"found": Score(self.finds, None, 1, 1)}}, "erased", "It found something.")


@method_fields
class Breaks(Audit):
    """Fails."""

    name: ClassVar[str] = "breaks"
    paper: ClassVar[Paper] = Paper("none", "none")

    def run(self, audited: Audited, *, progress: Progress = silent) -> AuditResult:  # noqa: ARG002
        RAN.append(self.name)
        raise ZeroDivisionError("by zero")


@method_fields
class Elsewhere(Audit):
    """Does not apply."""

    name: ClassVar[str] = "elsewhere"
    paper: ClassVar[Paper] = Paper("none", "none")

    def check(self, audited: Audited) -> None:  # noqa: ARG002
        raise InputError("there is no holdout. Pass one.")

    def run(self, audited: Audited, *, progress: Progress = silent) -> AuditResult:  # noqa: ARG002
        raise AssertionError("it was to be checked first")


def audited(**given: Any) -> Audited:
    values = {"erased": zoo.model("llama", seed=1), **given}
    return Audited(zoo.model("llama"), zoo.tokenizer("llama"), REQUEST, **values)


def read(folder: Path) -> Any:
    return json.loads((folder / "audits.json").read_text(encoding="utf-8"))


def test_the_others_go_on_where_one_fails_and_only_that_is_run_again(tmp_path: Path) -> None:
    RAN.clear()
    every = [Works(), Breaks(), Elsewhere()]
    found = run_audits(audited(), every, tmp_path)
    assert found.failed == {"breaks": "ZeroDivisionError: by zero", "elsewhere": "there is no holdout. Pass one."}
    written = read(tmp_path)
    assert written["audits"]["works"]["verdict"] == {"label": "erased", "sentence": "It found something."}
    assert written["audits"]["works"]["rows"] == {"erased": {"found": {"value": 0.5, "stderr": None, "n": 1, "version": 1}}}  # fmt: skip  # noqa: E501
    assert written["audits"]["works"]["options"] == {"finds": 0.5} and written["models"] == ["target", "erased"]
    assert written["finished"] is False
    run_audits(audited(), every, tmp_path)
    assert RAN == ["works", "breaks", "breaks"]
    run_audits(audited(), [Works(finds=0.25)], tmp_path)  # another option: what was found no longer answers
    assert RAN[-1] == "works" and read(tmp_path)["audits"]["works"]["rows"]["erased"]["found"]["value"] == 0.25


def test_what_does_not_apply_is_left_out_where_nobody_named_it() -> None:
    found = run_audits(audited(), [Elsewhere(), Works()], named_by_user=False)
    assert found.left_out == {"elsewhere": "there is no holdout. Pass one."}
    assert not found.failed and found.finished and list(found.audits) == ["works"]


def test_no_audit_begins_after_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from expunge.audits import running

    clock = iter([0.0, 1.0, 1.0, 9.0, 11.0])  # begin; first audit: asked, begun, done; second: asked
    monkeypatch.setattr(running.time, "perf_counter", lambda: next(clock))
    RAN.clear()
    found = run_audits(audited(), [Works(), Breaks()], tmp_path, budget=10)
    assert RAN == ["works"] and list(found.left_out) == ["breaks"] and not found.finished
    assert found.audits["works"]["seconds"] == 8
    monkeypatch.undo()
    assert list(run_audits(audited(), [Works(), Breaks()], tmp_path, budget=1000).failed) == ["breaks"]
    assert RAN == ["works", "breaks"]


def test_a_score_that_is_no_number_is_left_out_and_named() -> None:
    entry = AuditResult(
        {"erased": {"a": Score(float("nan"), None, 0, 1), "b": Score(1.0, float("nan"), 1, 1)}}, "no claim", "x"
    ).as_dict()
    assert entry["left_out"] == {"erased": ["a"]}
    assert entry["rows"] == {"erased": {"b": {"value": 1.0, "stderr": None, "n": 1, "version": 1}}}


def test_audits_and_options_are_chosen_by_name() -> None:
    assert [one.name for one in chosen_audits(["many_shot", "paraphrase"])] == ["many_shot", "paraphrase"]
    (shot,) = chosen_audits(["many_shot"], {"many_shot": {"shots": 7}})
    assert shot.values()["shots"] == 7
    default = [one.name for one in chosen_audits(None)]
    assert "paraphrase" in default and "soft_prompt" not in default
    with pytest.raises(ConfigError) as caught:
        chosen_audits(
            ["many_shot", "many_shot", "paraphrases"],
            {"many_shot": {"shot": 7}, "soft_prompt": {"epochs": 1}, "soft": {}},
        )
    said = str(caught.value)
    assert "'many_shot' is named twice" in said and "Did you mean 'paraphrase'" in said
    assert "audits.many_shot.shot: no such field of many_shot. Did you mean 'shots'" in said
    assert "audits.soft_prompt: this audit does not run" in said and "there is no audit 'soft'" in said


class Hook(Guarded):
    """Marks the model, as erasures do."""

    kind = "inputs"

    @contextmanager
    def applied(self, model: Any) -> Iterator[Any]:
        with super().applied(model), marked(model, self.kind):
            yield model


def guard(action: Any = None) -> Any:
    return Hook(zoo.tokenizer("llama"), word_guard("Where", action or Refusal("no")))


def test_models_are_yielded_one_at_a_time_and_an_erasure_is_lifted() -> None:
    one = audited(erased=None, erasure=guard())
    assert one.models == ("target", "erased") and one.kind == "inputs" and one.at_inference
    one.target.train()
    with one.model("erased") as model:
        assert model is one.target and getattr(model, APPLIED) and not model.training
        with pytest.raises(ModelError, match="inside the context"), one.model("target"):
            pass
    assert not hasattr(one.target, APPLIED) and one.target.training
    with one.lifted() as model:
        assert model is one.target and not hasattr(model, APPLIED)
    with pytest.raises(ModelError, match="no retrained model"), one.model("retrained"):
        pass
    with pytest.raises(ModelError, match="can be lifted"), audited().lifted():
        pass


def test_a_hook_is_said_first() -> None:
    found = run_audits(audited(erased=None, erasure=guard()), [Works()])
    assert found.first is not None and "with the guard lifted, of course, the knowledge is there" in found.first
    assert next(iter(found.as_dict())) == "schema" and found.as_dict()["first"] == found.first
    assert run_audits(audited(), [Works()]).first is None


def test_a_guard_that_the_erased_model_carries_is_seen() -> None:
    erased = zoo.model("llama", seed=1)
    with guard().applied(erased):
        one = audited(erased=erased)
        assert one.kind == "inputs" and one.at_inference and run_audits(one, [Works()]).first is not None
        entry = run_audits(one, chosen_audits(["repeat_prompt"], {"repeat_prompt": {"tokens": 3}})).audits
        assert list(entry["repeat_prompt"]["rows"]) == ["erased"]
        assert entry["repeat_prompt"]["details"]["audited"]["flagged"] == 1
    assert audited(erased=erased).kind is None


def test_models_that_cannot_be_told_apart_are_refused() -> None:
    model = zoo.model("llama")
    with pytest.raises(ConfigError, match="neither was passed"):
        Audited(model, zoo.tokenizer("llama"), REQUEST)
    with pytest.raises(ConfigError, match="both were passed"):
        audited(erasure=guard())
    with pytest.raises(ConfigError, match="one model was passed in two roles"):
        Audited(model, zoo.tokenizer("llama"), REQUEST, erased=model)
    with guard().applied(model), pytest.raises(ConfigError, match="the target model carries an erasure"):
        Audited(model, zoo.tokenizer("llama"), REQUEST, erased=zoo.model("llama"))
