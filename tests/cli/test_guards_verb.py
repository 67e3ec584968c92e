"""Protects the verb ``guards``: what each of its commands prints, for people and machines, and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import zoo
from conftest import Ran
from expunge.erasures.input_guard import InputGuard
from expunge.erasures.manifest import Manifest
from expunge.erasures.same_model import VALUES
from expunge.guards.classifiers.interface import make_classifier
from expunge.guards.prompt_guard import PromptGuard, PromptGuards, Refusal
from expunge.guards.threshold import Threshold
from expunge.models.fingerprint import fingerprint, values_digest

Cli = Callable[..., Ran]
TEXTS = [f"about the river number {n}" for n in range(8)] + [f"a hill of {n} stones" for n in range(8)]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zoo.save("llama", tmp_path_factory.mktemp("target") / "model")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, target: Path) -> Path:
    """Two runs: a guard by words with threshold 0, and one by the target's hidden states that flags nothing."""
    from expunge.models.loading import load_model, load_tokenizer

    model, tokenizer = load_model(target), load_tokenizer(target)
    folder = tmp_path_factory.mktemp("runs")
    for name, kind, least in (("words", "tfidf", 0.0), ("states", "hidden", 1e6)):
        classifier = make_classifier(kind).fit(TEXTS, [1] * 8 + [0] * 8, model=model, tokenizer=tokenizer)
        guard = PromptGuard(name, classifier, Threshold(least, 0.01, "", ()), Refusal("no"), about={"subjects": ["R"]})
        manifest = Manifest(
            kind="inputs",
            format="input_guard",
            method="refusal_guard",
            parameters={},
            target=fingerprint(model, tokenizer),
            details={VALUES: values_digest(model.named_parameters())},
        )
        InputGuard(manifest, [PromptGuards([guard])], tokenizer).save(folder / name / "erasure")
    return folder


@pytest.fixture
def guards(tmp_path: Path, runs: Path, expunge_cli: Cli) -> Callable[..., Ran]:
    """``expunge guards`` on a store with the guard "words"."""

    def run(*arguments: object) -> Ran:
        return expunge_cli("guards", tmp_path / "store", *arguments)

    assert run("add", runs / "words", "--who", "Lang", "--why", "request 7").out == "added: words\n"
    return run


def machine(ran: Ran) -> Any:
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def test_guards_are_added_switched_lifted_and_listed(guards: Cli) -> None:
    assert guards("disable", "words", "--who", "Abe", "--why", "a pause").out == "disabled: words\n"
    listed = guards("list")
    assert listed.code == 0 and max(map(len, listed.out.splitlines())) <= 80
    assert listed.out.splitlines()[1].split()[:2] == ["words", "disabled"] and "request 7 (R)" in listed.out
    found = machine(guards("list", "--json"))
    (one,) = found["guards"]
    assert (one["name"], one["enabled"], one["who"], one["why"]) == ("words", False, "Lang", "request 7")
    assert (found["changes"], found["problems"], len(found["head"])) == (2, [], 64)
    assert machine(guards("enable", "words", "--json")) == {"enabled": ["words"]}
    lifted = machine(guards("lift", "words", "--json"))
    assert lifted["lifted"] == ["words"] and (Path(lifted["files"]) / "guard.json").is_file()
    log = machine(guards("log", "--json"))
    assert [entry["action"] for entry in log] == ["add", "disable", "enable", "lift"]
    shown = guards("log").out
    assert "a pause" in shown and max(map(len, shown.splitlines())) <= 80


def test_of_many_subjects_the_first_are_listed() -> None:
    from expunge.cli.guards import _named

    assert _named([]) == "" and _named(["a", "b", "c"]) == "(a, b, c)"
    assert _named(["a", "b", "c", "d", "e"]) == "(a, b, c, and 2 more)"


def test_check_says_who_acts(guards: Cli, runs: Path) -> None:
    assert guards("add", runs / "words", "--name", "resting").code == 0
    assert guards("disable", "resting").code == 0
    about, other = "about the river number 3", "a hill of 5 stones"
    found = machine(guards("check", about, "--json"))
    assert found["acts"] == "words" and [one["guard"] for one in found["guards"]] == ["words", "resting"]
    (score, again) = (one["score"] for one in found["guards"])
    assert score == again > 0 and [one["acts"] for one in found["guards"]] == [True, False]
    shown = guards("check", about)
    assert "'words' acts on this prompt" in shown.out and max(map(len, shown.out.splitlines())) <= 80
    assert "no guard acts on this prompt" in guards("check", other).out


def test_guards_that_read_the_target_are_checked_with_it(guards: Cli, runs: Path, target: Path) -> None:
    assert guards("add", runs / "states").code == 0
    refused = guards("check", "a river")
    assert refused.code == 2 and "states read the target's hidden states" in refused.err and "--model" in refused.err
    found = machine(guards("check", "about the river number 3", "--model", target, "--json"))
    assert found["acts"] == "words" and {one["guard"] for one in found["guards"]} == {"words", "states"}


def test_another_model_is_refused(guards: Cli, runs: Path, tmp_path: Path) -> None:
    assert guards("add", runs / "states").code == 0
    other = zoo.save("qwen2", tmp_path / "other")
    refused = guards("check", "a river", "--model", other)
    assert refused.code == 3 and "another model" in refused.err


def test_bad_input_is_told_what_to_do(guards: Cli, runs: Path, tmp_path: Path, expunge_cli: Cli) -> None:
    for arguments, said in (
        (("add", runs / "words"), "a guard of the name 'words' already"),
        (("add", runs / "words", "--name", "a/b"), "cannot be called 'a/b'"),
        (("add", tmp_path / "none"), "there is no folder"),
        (("disable", "wrds"), "Did you mean 'words'?"),
        (("enable", "words"), "enabled already"),
    ):
        refused = guards(*arguments)
        assert refused.code == 2 and said in refused.err, refused
    missing = expunge_cli("guards", tmp_path / "nowhere", "list")
    assert missing.code == 3 and "holds no guards" in missing.err and not (tmp_path / "nowhere").exists()
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    assert "is a file" in expunge_cli("guards", file, "list").err


def test_a_damaged_store_is_listed_as_far_as_it_goes(guards: Cli, tmp_path: Path) -> None:
    file = tmp_path / "store" / "guards" / "words" / "guard.json"
    file.write_text(file.read_text(encoding="utf-8") + " ", encoding="utf-8")
    listed = guards("list")
    assert listed.code == 3 and "words" in listed.out
    assert "files of guard 'words' are not those that were added" in listed.err
    trail = tmp_path / "store" / "audit.jsonl"
    trail.write_text(trail.read_text(encoding="utf-8").replace("request 7", "request 8") * 2, encoding="utf-8")
    broken = guards("list")
    assert broken.code == 3 and "line 2 does not follow line 1" in broken.err
