"""Protects the store of guards: what is in force, who changed it, and that broken trails and files are refused."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from expunge.data.template import Template
from expunge.erasures.input_guard import InputGuard
from expunge.erasures.manifest import Manifest
from expunge.erasures.same_model import VALUES
from expunge.errors import ConfigError, ErasureError, InputError, UnknownNameError
from expunge.guards.classifiers.interface import PromptClassifier, make_classifier
from expunge.guards.corruptions import Corruption
from expunge.guards.instruction_guard import InstructionGuard
from expunge.guards.prompt_guard import PromptGuard, PromptGuards, Refusal
from expunge.guards.store import GuardStore, check_name
from expunge.guards.threshold import Threshold
from expunge.models.fingerprint import fingerprint, values_digest
from expunge.requests import Row

NOISE = Corruption("rand_noise_first_n", 5.0, 64)


@pytest.fixture(scope="module")
def model() -> Any:
    return zoo.model("llama")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return zoo.tokenizer("llama")


def classifier(word: str) -> PromptClassifier:
    texts = [f"about the {word} number {n}" for n in range(8)] + [f"a hill of {n} stones" for n in range(8)]
    return make_classifier("tfidf").fit(texts, [1] * 8 + [0] * 8)


def guard(name: str = "river", word: str = "river", action: Any = NOISE) -> PromptGuard:
    return PromptGuard(name, classifier(word), Threshold(0.0, 0.01, "", ()), action, about={"subjects": [word]})


@pytest.fixture(scope="module")
def manifest(model: Any, tokenizer: Any) -> Manifest:
    return Manifest(
        kind="inputs",
        format="input_guard",
        method="embedding_corruption",
        parameters={},
        target=fingerprint(model, tokenizer),
        details={VALUES: values_digest(model.named_parameters())},
    )


@pytest.fixture
def erasure(manifest: Manifest, tokenizer: Any) -> InputGuard:
    return InputGuard(manifest, [PromptGuards([guard()])], tokenizer)


@pytest.fixture
def store(tmp_path: Path, erasure: InputGuard) -> GuardStore:
    found = GuardStore(tmp_path / "store")
    found.add(erasure, "one", who="Lang", why="request 7")
    return found


def ids(text: str) -> torch.Tensor:
    tokenizer = zoo.tokenizer("llama")
    return torch.tensor([tokenizer(Template.of(tokenizer, "plain").render(Row(text, "x")).prompt)["input_ids"]])


def lines(store: GuardStore) -> list[bytes]:
    return store.trail.path.read_bytes().splitlines()


def test_guards_come_and_go_and_every_change_is_a_line(store: GuardStore, erasure: InputGuard) -> None:
    begun = datetime.now(UTC) - timedelta(minutes=1)
    assert store.add(erasure, who="Lang") == ["river"]  # the guard's own name
    store.disable("one", who="Abe", why="a pause")
    assert store.names == {"one": False, "river": True}
    store.enable("one", who="Abe")
    folder = store.lift("river", who="Lang", why="done")
    assert store.names == {"one": True} and store.load().names == {"one": True}
    assert folder == store.folder / "lifted" / "river.5" and (folder / "classifier" / "classifier.json").is_file()
    store.add(erasure, "river")  # the name is free again
    entries = store.trail.read()
    assert [(one.action, one.guard, one.who, one.why) for one in entries[:5]] == [
        ("add", "one", "Lang", "request 7"),
        ("add", "river", "Lang", ""),
        ("disable", "one", "Abe", "a pause"),
        ("enable", "one", "Abe", ""),
        ("lift", "river", "Lang", "done"),
    ]
    assert all(one.subjects == ("river",) for one in entries)
    times = [datetime.fromisoformat(one.time) for one in entries]
    assert times == sorted(times) and begun < times[0] and times[-1].utcoffset() == timedelta(0)
    # each line has the hash of the one before, the first that of the file that says which model it is
    before = [(store.folder / "store.json").read_bytes(), *lines(store)[:-1]]
    assert [one.previous for one in entries] == [hashlib.sha256(line).hexdigest() for line in before]
    assert store.verify() == []


def test_names_that_are_there_or_are_none(store: GuardStore, erasure: InputGuard) -> None:
    before = lines(store)
    with pytest.raises(ConfigError, match="name 'ONE' already"):
        store.add(erasure, "ONE")
    for change in (store.lift, store.disable, store.enable):
        with pytest.raises(UnknownNameError, match=r"no guard 'ones' in .* Did you mean 'one'"):
            change("ones")
    with pytest.raises(ConfigError, match="enabled already"):
        store.enable("one")
    with pytest.raises(ErasureError, match="holds no guards"):
        GuardStore(store.folder / "guards").load()
    assert lines(store) == before


@pytest.mark.parametrize(
    ("name", "why"),
    [("../up", "'/'"), ("a\\b", "has"), ("", "is empty"), (".hidden", "begins with a dot"), ("end.", "ends with a dot"),
     ("nul.txt", "device"), ("line\nbreak", "has"), ("é" * 61, "longer than 120 bytes")],
)  # fmt: skip
def test_names_that_no_folder_can_have(name: str, why: str, tmp_path: Path, erasure: InputGuard) -> None:
    with pytest.raises(ConfigError, match=f"cannot be called .*{why}"):
        GuardStore(tmp_path / "store").add(erasure, name)
    assert not (tmp_path / "store").exists()


def test_names_of_people_and_works_can_be() -> None:
    for name in ("Basil Mahfouz Al-Kuwaiti", "Tomás O'Brien, Jr", "東京", "request 4711", "x" * 120):
        check_name(name)


def test_an_erasure_is_added_from_its_folder_and_its_run(tmp_path: Path, erasure: InputGuard) -> None:
    erasure.save(tmp_path / "run" / "erasure")
    store = GuardStore(tmp_path / "store")
    store.add(tmp_path / "run", "by run")
    store.add(tmp_path / "run" / "erasure", "by erasure")
    assert list(store.load().names) == ["by run", "by erasure"]
    with pytest.raises(InputError, match="no folder"):
        store.add(tmp_path / "nowhere")


def test_only_guards_that_recognise_prompts_are_held(store: GuardStore, manifest: Manifest) -> None:
    with pytest.raises(ErasureError, match="recognise no prompts"):
        store.add(InputGuard(manifest, [InstructionGuard("Forget the river.", "auto")]))
    two = InputGuard(manifest, [PromptGuards([guard("a"), guard("b")])])
    with pytest.raises(ConfigError, match=r"2 guards \(a, b\), and one name"):
        store.add(two, "c")
    assert store.add(two) == ["a", "b"]


def test_guards_of_another_model_are_refused(store: GuardStore, manifest: Manifest) -> None:
    other = replace(manifest.target, weights="0" * 64)
    with pytest.raises(ErasureError, match=r"another model than the store .*: weights differ"):
        store.add(InputGuard(manifest.model_copy(update={"target": other}), [PromptGuards([guard()])]))
    changed = manifest.model_copy(update={"details": {VALUES: "0" * 64}})
    with pytest.raises(ErasureError, match="values in memory differ"):
        store.add(InputGuard(changed, [PromptGuards([guard()])]))
    assert store.names == {"one": True}


def test_a_store_is_not_applied_to_another_model(store: GuardStore, tokenizer: Any) -> None:
    with pytest.raises(ErasureError, match="another model"), store.applied(zoo.model("llama", seed=1), tokenizer):
        pass


@torch.no_grad()
def test_changes_of_the_store_reach_the_loaded_model(
    store: GuardStore, erasure: InputGuard, manifest: Manifest, model: Any, tokenizer: Any
) -> None:
    prompt = ids("about the river 3")

    def logits() -> torch.Tensor:
        found: torch.Tensor = model(prompt).logits
        return found

    plain = logits()
    elsewhere = GuardStore(store.folder)  # as another process has it
    with store.applied(model, tokenizer) as guards:
        corrupted = logits()
        assert not torch.equal(corrupted, plain)
        elsewhere.disable("one")
        assert torch.equal(logits(), plain) and guards.names == {"one": False}
        elsewhere.enable("one")
        assert torch.equal(logits(), corrupted)
        store.lift("one")
        assert torch.equal(logits(), plain) and guards.names == {}
        elsewhere.add(InputGuard(manifest, [PromptGuards([guard(action=Refusal("no"))])]), "one")
        assert bool((logits()[:, -1] == 0).all())  # a declined prompt scores all tokens alike
        store.lift("one")
        elsewhere.add(erasure, "one")
        assert torch.equal(logits(), corrupted)
        with pytest.raises(ConfigError, match="follow the store"):
            guards.lift("one")
    assert torch.equal(logits(), plain)


@torch.no_grad()
def test_a_live_model_refuses_to_go_on_unguarded_once_the_trail_is_broken(
    store: GuardStore, model: Any, tokenizer: Any
) -> None:
    with store.applied(model, tokenizer):
        store.trail.path.write_bytes(store.trail.path.read_bytes() + b"{}\n")
        with pytest.raises(ErasureError, match=r"audit trail .* is broken"):
            model(ids("about the river 3"))


def test_changed_lines_and_files_are_found_where_they_are(store: GuardStore) -> None:
    for number in range(3):
        (store.enable if number % 2 else store.disable)("one", who="Abe")
    head, good = store.trail.head, lines(store)

    def broken(changed: list[bytes], problem: str) -> None:
        store.trail.path.write_bytes(b"".join(line + b"\n" for line in changed))
        problems = store.verify(head)
        assert any(problem in one for one in problems), problems

    broken([good[0], good[1].replace(b"Abe", b"Eve"), *good[2:]], "line 3 does not follow line 2")
    with pytest.raises(ErasureError, match=r"broken.*line 3 does not follow line 2"):
        store.load()
    broken([good[0], *good[2:]], "line 2 does not follow line 1")
    broken([good[0].replace(b"Lang", b"Lung"), *good[1:]], "line 2 does not follow line 1")
    broken(good[1:], "line 1 does not follow store.json")
    broken([*good[:3], good[3][:40]], "line 4 cannot be read")
    broken([*good[:3], good[3].replace(b"Abe", b"Eve")], f"no line has the hash {head}")  # the last one is seen by it
    broken(good[:3], f"no line has the hash {head}")
    store.trail.path.write_bytes(b"".join(line + b"\n" for line in good))
    assert store.verify(head) == store.verify(json.loads(good[2])["previous"]) == []

    file = store.folder / "guards" / "one" / "guard.json"
    file.write_text(file.read_text(encoding="utf-8").replace('"value": 0.0', '"value": 99.0'), encoding="utf-8")
    (store.folder / "guards" / "strange").mkdir()
    assert store.verify() == [
        "the files of guard 'one' are not those that were added",
        "guards/strange is in no line of the trail",
    ]
    with pytest.raises(ErasureError, match="files of guard 'one'"):
        store.load()


def test_another_model_in_its_file_breaks_the_trail(store: GuardStore) -> None:
    file = store.folder / "store.json"
    file.write_text(file.read_text(encoding="utf-8").replace('"dtype"', '"dtype" '), encoding="utf-8")
    assert store.verify() == ["line 1 does not follow store.json: one was changed, taken out or put in"]


def test_what_a_killed_process_left_is_no_guard(store: GuardStore, erasure: InputGuard) -> None:
    # files without a line: it was killed while adding; a line without its end: while writing it
    left = store.folder / "guards" / "two"
    left.mkdir()
    (left / "guard.json").write_text("{}", encoding="utf-8")
    assert store.names == {"one": True}
    store.add(erasure, "two")
    assert store.load()["two"].threshold.value == 0.0 and store.verify() == []
    assert (store.folder / "lifted" / "two.1" / "guard.json").is_file()
    store.trail.path.write_bytes(store.trail.path.read_bytes().removesuffix(b"\n"))
    store.disable("two")
    assert store.verify() == [] and len(lines(store)) == 3


def test_two_processes_at_once_lose_no_line(store: GuardStore, erasure: InputGuard) -> None:
    store.add(erasure, "two")
    code = (
        "import sys\nfrom expunge.guards.store import GuardStore\nstore = GuardStore(sys.argv[1])\n"
        "for _ in range(20):\n    store.disable(sys.argv[2], who='x')\n    store.enable(sys.argv[2], who='x')\n"
    )
    arguments = [sys.executable, "-c", code, str(store.folder)]
    running = [subprocess.Popen([*arguments, name]) for name in ("one", "two")]
    assert [one.wait(timeout=60) for one in running] == [0, 0]
    entries = store.trail.read()
    assert len(entries) == 2 + 2 * 40 and store.verify() == []
    for name in ("one", "two"):
        assert [entry.action for entry in entries if entry.guard == name] == ["add", *["disable", "enable"] * 20]


def test_a_store_without_its_trail_is_broken(
    store: GuardStore, erasure: InputGuard, model: Any, tokenizer: Any
) -> None:
    good = store.trail.path.read_bytes()
    with store.applied(model, tokenizer):
        for gone in (False, True):
            store.trail.path.write_bytes(b"")
            if gone:
                store.trail.path.unlink()
            word = "gone" if gone else "empty"
            for use in (lambda: model(ids("a hill")), store.load, store.guards, lambda: store.add(erasure, "two")):
                with pytest.raises(ErasureError, match=rf"is broken.*it is {word}.*Put back a copy"):
                    use()
            with pytest.raises(ErasureError, match=f"it is {word}"), store.applied(model, tokenizer):
                pass
            assert any(f"it is {word}" in one for one in store.verify())
        store.trail.path.write_bytes(good)
        model(ids("a hill"))
    # a process was killed before the first guard was there: it can be added again
    begun = GuardStore(store.folder.parent / "begun")
    begun.folder.mkdir()
    (begun.folder / "store.json").write_bytes((store.folder / "store.json").read_bytes())
    assert begun.add(erasure, "one") == ["one"] and begun.verify() == []


def test_lines_that_were_cut_off_are_seen_where_they_can_be(
    store: GuardStore, erasure: InputGuard, model: Any, tokenizer: Any
) -> None:
    first = store.trail.path.read_bytes()
    store.add(erasure, "two")
    both = store.trail.path.read_bytes()
    # without its line the second guard's files are nobody's
    store.trail.path.write_bytes(first)
    with pytest.raises(ErasureError, match=r"in no line of its trail: guards/two\. .*Put back a copy"):
        store.load()
    store.trail.path.write_bytes(both)
    store.disable("one")
    store.enable("one")
    every = store.trail.path.read_bytes()
    with store.applied(model, tokenizer) as guards:
        # no file tells that line 4 was there; the model that has read it does
        store.trail.path.write_bytes(b"".join(line + b"\n" for line in every.splitlines()[:3]))
        for _ in range(2):
            with pytest.raises(ErasureError, match="no longer has the line"):
                model(ids("a hill"))
        assert store.load().names == {"one": False, "two": True}
        store.trail.path.write_bytes(every)
        store.disable("two")
        assert guards.names == {"one": True, "two": False}


def test_a_process_killed_while_it_lifts_a_guard_leaves_the_store_whole(store: GuardStore, erasure: InputGuard) -> None:
    store.add(erasure, "two")
    to = store.lift("two")
    to.rename(store.folder / "guards" / "two")  # the line was written, the files not yet moved
    assert store.load().names == {"one": True}
    store.add(erasure, "two")
    store.lift("two")
    lines_before = lines(store)
    store.add(erasure, "two")
    store.trail.path.write_bytes(b"".join(line + b"\n" for line in lines_before))  # added after it was lifted: cut off
    with pytest.raises(ErasureError, match="in no line of its trail: guards/two"):
        store.load()
