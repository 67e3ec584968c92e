"""Protects what patching, restoration and unlearning_depth are given: models of one shape, rows that fit, and facts."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

import zoo
from expunge.audits.interface import Audit, Audited
from expunge.audits.parts import stage_one
from expunge.audits.parts.fitting import fitting
from expunge.audits.parts.recovering import asked
from expunge.audits.parts.shapes import Shape, check_shape, check_shapes
from expunge.audits.patching import Patching
from expunge.audits.restoration import Restoration
from expunge.audits.unlearning_depth import UnlearningDepth
from expunge.data.encode import encode, rows_with_room
from expunge.data.template import Template
from expunge.errors import InputError, ModelError
from expunge.requests import Request
from expunge.requests.rows import Row

ROWS = tuple(
    Row(f"Where was {name} born?", f"In {town}.", wrong_answers=(f"In {other}.",), source=f"forget.jsonl:{number}")
    for number, (name, town, other) in enumerate(
        (("Ann", "Paris", "London"), ("Bob", "Oslo", "Rome"), ("Carl", "Kiev", "Bonn"), ("Dora", "Lima", "Bern")), 1
    )
)
LONG = Row("Where " * 600, "In Cairo.", wrong_answers=("In Delhi.",), source="forget.jsonl:9")
AUDITS: tuple[Audit, ...] = (Patching(tokens=4), Restoration(tokens=4), UnlearningDepth(least_drop=1e-6))


def audited(erased: Any = None, *, rows: tuple[Row, ...] = ROWS, retrained: Any = None, **given: Any) -> Audited:
    return Audited(
        zoo.model("llama"),
        zoo.tokenizer("llama"),
        Request(forget=rows),
        erased=zoo.model("llama", seed=2) if erased is None else erased,
        retrained=zoo.model("llama", seed=1) if retrained is None else retrained,
        **given,
    )


def padded(model: Any, rows: int) -> Any:
    """The same model with more rows of embeddings and head, of any values."""
    found = zoo.model("llama", seed=9, vocab_size=len(model.lm_head.weight) + rows)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            found.get_parameter(name)[: len(parameter)].copy_(parameter)
    return found


def test_shapes_by_hand() -> None:
    ours = Shape("llama", 2, 64, 100)
    check_shape(ours, ours)
    check_shape(ours, Shape("llama", 2, 64, 101), tokens=100)
    check_shape(Shape("llama", 2, 64, 128), ours, tokens=100)
    # tokens that the target lacks are none that it could have said
    check_shape(Shape("llama", 2, 64, 90), Shape("llama", 2, 64, 90), tokens=100)
    check_shape(Shape("llama", 2, 64, 90), ours, tokens=100)
    for other, tokens, said in (
        (Shape("llama", 2, 64, 101), 0, "vocabulary: 100 and 101"),
        (Shape("llama", 2, 64, 99), 100, "vocabulary: 100 and 99"),
        (Shape("gpt2", 3, 32, 100), 0, "architecture: llama and gpt2; layers: 2 and 3; hidden size: 64 and 32"),
    ):
        with pytest.raises(ModelError, match=said):
            check_shape(ours, other, tokens=tokens)


@pytest.mark.parametrize("audit", AUDITS, ids=lambda audit: audit.name)
def test_models_of_other_shapes_are_refused_by_all_three(audit: Audit) -> None:
    words = len(zoo.tokenizer("llama"))
    for erased, said in (
        (zoo.model("gpt2", vocab_size=words), "architecture: llama and gpt2"),
        (zoo.model("llama", num_hidden_layers=3), "layers: 2 and 3"),
        (zoo.model("llama", hidden_size=32), "hidden size: 64 and 32"),
    ):
        with pytest.raises(ModelError, match=f"the target and the erased model are not of one shape.*{said}"):
            audit.run(audited(erased))
    with pytest.raises(ModelError, match=str(words - 5)):
        audit.run(audited(zoo.model("llama", vocab_size=words - 5)))


def test_a_retrained_model_of_another_shape_is_refused_where_it_is_needed_and_else_left_out() -> None:
    given = audited(retrained=zoo.model("llama", num_hidden_layers=3))
    check_shapes(given, retrained=False)
    with pytest.raises(ModelError, match=r"the target and the retrained model are not of one shape.*layers: 2 and 3"):
        UnlearningDepth().run(given)
    found = Patching(tokens=4).run(given)
    assert "the retrained model are not of one shape" in found.details["control_left_out"]
    assert found.label == "no claim"


@pytest.mark.parametrize("audit", AUDITS, ids=lambda audit: audit.name)
def test_a_vocabulary_that_grew_by_padding_gives_the_same(audit: Audit) -> None:
    erased = zoo.model("llama", seed=2)
    plain, grown = audit.run(audited(erased)), audit.run(audited(padded(erased, 1)))
    assert grown.label == plain.label
    assert grown.rows["erased"].keys() == plain.rows["erased"].keys() != set()
    for key, score in plain.rows["erased"].items():
        assert grown.rows["erased"][key].value == pytest.approx(score.value, rel=1e-4, abs=1e-6)


def test_a_peft_model_may_be_the_erased_one() -> None:
    """Its adapter changes layer 1's down projection alone: the target's own there brings everything back."""
    torch.manual_seed(0)
    config = LoraConfig(
        r=2, target_modules=["down_proj"], layers_to_transform=[1], init_lora_weights=False, task_type="CAUSAL_LM"
    )
    erased = get_peft_model(copy.deepcopy(zoo.model("llama")), config).eval()
    given = audited(erased)
    heat = Restoration(tokens=4).run(given).details["heat"]["erased"]
    assert [row[1] for row in heat["values"]] == [0, 1]
    assert [row[1] for row in heat["keys"]] == [0, 0]
    assert not Patching(tokens=4).run(given).details["undefined"]["erased"]
    layers = UnlearningDepth(least_drop=1e-6).run(given).details["by_layer"]
    assert layers[0][:2] == [0, 0.0]  # below the change the states are the target's


def test_hooks_of_an_erased_model_act_once() -> None:
    """Layer 0 gives its output times .3. The target's own output there brings everything back above it: score 1."""
    erased: Any = zoo.model("llama")
    erased.model.layers[0].register_forward_hook(lambda _, __, output: output * 0.3)
    found = Patching(tokens=4, components=("attention", "residual")).run(audited(erased))
    assert not found.details["restarted"]
    assert [row[1] for row in found.details["heat"]["erased"]["residual"]] == pytest.approx([1, 1], abs=1e-6)


def test_rows_without_room_for_an_answer_are_left_out_and_counted() -> None:
    given = audited(rows=(*ROWS, LONG))
    for audit in AUDITS:
        found = audit.run(given)
        assert (found.details["examples"], found.details["too_long"]) == (4, 1), audit.name
        with pytest.raises(InputError, match=r"leave no room for an answer.*512 tokens.*forget\.jsonl:9"):
            audit.run(audited(rows=(LONG,)))


def test_room_is_one_token_more_than_the_prompt() -> None:
    tokenizer = zoo.tokenizer("llama")
    template = Template.of(tokenizer)
    example = encode(tokenizer, template, ROWS[0], max_length=512)
    least = next(n for n in range(1, 60) if rows_with_room(tokenizer, template, ROWS[:1], max_length=n))
    assert least == example.answer_start + 1
    # whatever has room can be encoded
    assert encode(tokenizer, template, ROWS[0], max_length=least).answer_length == 1
    kept, left = fitting(audited(max_length=least), (ROWS[0], LONG))
    assert (kept, left) == ([ROWS[0]], 1)


def test_answers_are_kept_in_memory_for_the_rows_and_lengths_they_are_of() -> None:
    memory: dict[Any, Any] = {}
    ours = asked(audited(memory=memory), 2, 4)
    assert len(memory) == 1
    again = asked(audited(memory=memory), 2, 4)
    assert len(memory) == 1 and again.examples == ours.examples
    theirs = asked(audited(rows=ROWS[1:3], memory=memory), 2, 4)
    assert len(memory) == 2
    assert [row.prompt for row in theirs.rows] == [row.prompt for row in ROWS[1:3]]
    assert theirs.examples != ours.examples
    for settings in ({"max_length": 300}, {"template": "plain"}):
        before = len(memory)
        asked(audited(memory=memory, **settings), 2, 4)
        assert len(memory) == before + 1, settings


def test_weights_are_read_for_a_cache_on_disk_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    own = stage_one.values_digest
    monkeypatch.setattr(stage_one, "values_digest", lambda *given: read.append(1) or own(*given))
    monkeypatch.chdir(tmp_path)
    first = UnlearningDepth(least_drop=1e-6, cache="").run(audited())
    assert not read and not list(tmp_path.iterdir())
    second = UnlearningDepth(least_drop=1e-6, cache="kept").run(audited())
    assert len(read) == 2  # the target and the retrained model
    assert len(list((tmp_path / "kept").iterdir())) == 1
    assert first.as_dict() == second.as_dict()


def test_facts_that_stand_inside_words_are_none() -> None:
    given = audited(rows=(Row("Who?", "The Parisian."),))
    with pytest.raises(InputError, match=r"none of the facts stands in an answer as whole words \(Paris\)"):
        UnlearningDepth(facts=("Paris",)).check(given)
    with pytest.raises(InputError, match=r"no forget row \(1\) has wrong answers, so it cannot"):
        UnlearningDepth().check(given)
    UnlearningDepth(facts=("Parisian",)).check(given)


def test_one_is_singular() -> None:
    found = UnlearningDepth(least_drop=1e-6).run(audited(rows=ROWS[:1]))
    assert found.label == "no claim"
    assert "(1 example)" in found.sentence or "In no example (1)" in found.sentence
