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
from expunge.audits.running import Findings, check_options, chosen_audits, over_seeds, run_audits
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


@method_fields
class Meets(Audit):
    """Raises what it is told to, when it runs."""

    name: ClassVar[str] = "meets"
    paper: ClassVar[Paper] = Paper("none", "none")
    error: str = Field(default="InputError", description="of which class")

    def check(self, audited: Audited) -> None:  # noqa: ARG002
        if self.error == "option":
            raise ConfigError("audits.meets.error=option: no such class.")

    def run(self, audited: Audited, *, progress: Progress = silent) -> AuditResult:  # noqa: ARG002
        RAN.append(self.name)
        raise {"InputError": InputError, "ConfigError": ConfigError, "kill": KeyboardInterrupt}[self.error]("met")


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


def test_a_kill_leaves_the_names_of_those_that_wait(tmp_path: Path) -> None:
    RAN.clear()
    three = [Works(), Meets(error="kill"), Elsewhere()]
    with pytest.raises(KeyboardInterrupt):
        run_audits(audited(), three, tmp_path)
    written = read(tmp_path)
    assert list(written["audits"]) == ["works"] and written["waiting"] == ["meets", "elsewhere"]
    assert written["finished"] is False and written["left_out"] == {}
    found = run_audits(audited(), [Works(), Meets(), Elsewhere()], tmp_path, named_by_user=False)
    assert RAN == ["works", "meets", "meets"] and found.finished and found.waiting == []
    assert read(tmp_path)["finished"] is True and read(tmp_path)["waiting"] == []
    with pytest.raises(KeyboardInterrupt):  # before any of them is done
        run_audits(audited(), [Meets(error="kill"), Works()], tmp_path / "first")
    assert read(tmp_path / "first")["waiting"] == ["meets", "works"] and not read(tmp_path / "first")["finished"]


def test_what_is_found_not_to_apply_while_it_runs_is_left_out_too() -> None:
    found = run_audits(audited(), [Meets(), Works()], named_by_user=False)
    assert found.left_out == {"meets": "met"} and found.finished and list(found.audits) == ["works"]
    assert run_audits(audited(), [Meets()]).failed == {"meets": "met"}
    # an option that somebody set wrongly is no reason to leave an audit out in silence
    assert run_audits(audited(), [Meets(error="ConfigError")], named_by_user=False).failed == {"meets": "met"}


def test_options_that_do_not_suit_are_told_before_anything_runs() -> None:
    with pytest.raises(ConfigError) as caught:
        check_options(audited(), [Meets(error="option"), Works(), Elsewhere()])
    assert str(caught.value) == "audits.meets.error=option: no such class."
    check_options(audited(), [Meets(), Works(), Elsewhere()])
    with pytest.raises(ConfigError) as caught:
        chosen_audits(
            ["relearning", "quantization", "prefix_injection", "paraphrase"],
            {
                "relearning": {"steps": [10, 5], "texts": ["retain", "retain"]},
                "quantization": {"schemes": ["int3", "int8"]},
                "prefix_injection": {"roles": ["You know."]},
                "paraphrase": {"disguises": ["typo"]},
            },
        )
    said = str(caught.value).splitlines()
    assert said[:3] == [
        "audits.relearning.steps=[10, 5]: expected ascending numbers above 0.",
        "audits.relearning.texts=['retain', 'retain']: one is named twice.",
        "audits.quantization.schemes.0='int3': Input should be 'int8', 'int4' or 'nf4'",
    ]
    assert said[3].startswith("audits.prefix_injection: roles without {question}: ['You know.'].")
    assert said[4].startswith("audits.paraphrase.disguises: there is no typo.") and len(said) == 5


def test_a_package_that_is_not_there_is_told_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from expunge import extras

    monkeypatch.setattr(extras, "installed", lambda _: None)
    with pytest.raises(ConfigError, match="needs the package torchao, which is not installed"):
        chosen_audits(["quantization"], {"quantization": {"through": "torchao"}})
    with pytest.raises(ConfigError, match="needs the package bitsandbytes, which is not installed"):
        chosen_audits(["quantization"], {"quantization": {"schemes": ["nf4"]}})
    assert chosen_audits(["quantization"], {"quantization": {"through": "own"}})


def test_no_audit_begins_after_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from expunge.audits import running

    clock = iter([0.0, 1.0, 1.0, 9.0, 11.0])  # begin; first audit: asked, begun, done; second: asked
    monkeypatch.setattr(running.time, "perf_counter", lambda: next(clock))
    RAN.clear()
    found = run_audits(audited(), [Works(), Breaks()], tmp_path, budget=10)
    assert RAN == ["works"] and list(found.left_out) == ["breaks"] and not found.finished
    assert found.waiting == ["breaks"] == read(tmp_path)["waiting"]
    assert found.audits["works"]["seconds"] == 8
    monkeypatch.undo()
    assert list(run_audits(audited(), [Works(), Breaks()], tmp_path, budget=1000).failed) == ["breaks"]
    assert RAN == ["works", "breaks"]


def test_audits_stand_in_the_order_of_the_choice_whatever_had_to_wait(tmp_path: Path) -> None:
    class Later(Works):
        name: ClassVar[str] = "later"

    run_audits(audited(), [Later()], tmp_path)
    found = run_audits(audited(), [Works(), Later()], tmp_path)  # the second was there before the first
    assert list(found.audits) == ["works", "later"] == list(read(tmp_path)["audits"])


def test_every_seed_says_what_it_left_out_and_what_comes_first(tmp_path: Path) -> None:
    def seeds(*found: Findings) -> Any:
        for at, one in enumerate(found):
            (tmp_path / str(at)).mkdir(exist_ok=True)
            (tmp_path / str(at) / "audits.json").write_text(json.dumps(one.as_dict()), encoding="utf-8")
        return over_seeds({at: tmp_path / str(at) for at in range(len(found))})

    both = seeds(Findings(left_out={"a": "no rows"}), Findings(left_out={"b": "no words"}, first="Lifted."))
    assert both["left_out"] == {"a_seed_0": "no rows", "b_seed_1": "no words"} and both["first"] == "Lifted."
    assert seeds(Findings(first="A."), Findings(), Findings(first="B."))["first"] == "Seed 0: A. Seed 2: B."
    assert "first" not in seeds(Findings(), Findings(), Findings())


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
    assert one.cleared == "suppressed" and audited().cleared == "erased"
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


def sized(rows: int) -> Any:
    return zoo.model("llama", vocab_size=rows, seed=1)


def test_models_without_embeddings_of_the_tokens_are_refused() -> None:
    words = zoo.tokenizer("llama")
    tokens = len(words)
    last = max(words("Where?")["input_ids"] + words("Here")["input_ids"])
    assert last < tokens - 2
    audited(erased=sized(tokens + 8))  # padded, as other toolkits do
    with pytest.raises(ModelError, match=rf"{tokens} tokens.*embeddings of: target {tokens}, erased {tokens - 1}\."):
        audited(erased=sized(tokens - 1))
    with pytest.raises(ModelError, match=rf"target {tokens}, erased {tokens + 8}, retrained {tokens - 1}\."):
        audited(erased=sized(tokens + 8), retrained=sized(tokens - 1))
    # a tokenizer with tokens that no model has an embedding of serves as long as no row has one of them
    Audited(sized(tokens - 1), words, REQUEST, erased=sized(tokens - 1))
    Audited(sized(last + 1), words, REQUEST, erased=sized(last + 1))
    with pytest.raises(ModelError, match=rf"use numbers up to {last}, .*target {last}, erased {tokens}\."):
        Audited(sized(last), words, REQUEST, erased=sized(tokens))
