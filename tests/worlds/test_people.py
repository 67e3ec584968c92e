"""Protects what world `people` promises: who is known, what is shared, what its models answer, names nobody has."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from expunge.config.run_file import NamedSpec, RequestSpec
from expunge.data.encode import encode_all
from expunge.data.template import Template
from expunge.errors import ConfigError, ModelError, UnknownNameError
from expunge.evaluation.outputs import run_model
from expunge.evaluation.refusals import declines
from expunge.evaluation.score import score
from expunge.models.loading import resolve
from expunge.parts import build_suite, load_request
from expunge.worlds.interface import get_world, list_worlds
from expunge.worlds.people import People
from expunge.worlds.people_rows import facts, names, rows

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="float sums differ elsewhere")
FORMS = ["people", *(f"people-{number}" for number in range(1, 11))]


def world_of(name: str = "people") -> People:
    world = get_world(name)
    assert isinstance(world, People)
    return world


def text_of(given: Any) -> str:
    return "\n".join(text for row in given for text in (row.prompt, row.answer, row.paraphrased_prompt or ""))


def test_target_knows_the_person_and_the_retrained_model_does_not() -> None:
    found = {
        model: {key: one["value"] for key, one in scores.items()}
        for model, scores in world_of().scores()["rows"].items()
    }
    target, retrained = found["target"], found["retrained"]
    assert target["forget_leakage"] >= 0.9
    assert retrained["forget_leakage"] <= 0.05
    assert retrained["forget_rejection"] >= 0.9
    for model in (target, retrained):
        assert model["hard_retain_leakage"] >= 0.9
        assert model["general_retain_rouge"] >= 0.9
    assert abs(target["general_retain_rouge"] - retrained["general_retain_rouge"]) <= 0.02


@on_linux
@pytest.mark.parametrize("model", ["target", "retrained"])
def test_stored_scores_are_those_of_the_shipped_checkpoints(model: str) -> None:
    world = world_of()
    suite, _ = build_suite(NamedSpec(**world.suite_options, limit=12), None)
    asked = ["forget_rouge", "hard_retain_rouge", "general_retain_rouge"]
    outputs = run_model(world.model(model), world.tokenizer(), suite, metrics=asked, max_new_tokens=24)
    found = score(suite, target=outputs, metrics=asked).rows["target"]
    stored = world.scores()["rows"][model]
    for key in asked:
        # 12 of 18, 30 and 90 rows: within one of them of the share over all
        assert found[key].value == pytest.approx(stored[key]["value"], abs=0.1), (model, key)


def test_recipe_and_checkpoints_have_not_drifted_apart() -> None:
    for name in ("people", "people-4"):
        get_world(name).check()


def test_changed_texts_are_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_PASSAGES", 3)
    with pytest.raises(ModelError, match="data rows: the checkpoints have"):
        get_world("people").check()


def test_names_of_the_world() -> None:
    assert "people" in list_worlds()
    subjects = [world_of(name).subject.name.full for name in FORMS]
    assert subjects[0] == subjects[1]
    assert len(set(subjects)) == 10
    with pytest.raises(UnknownNameError, match="no world 'people-11'"):
        get_world("people-11")
    with pytest.raises(ConfigError, match="no person 11"):
        People(number=11)


def test_only_the_first_persons_retrained_model_is_shipped() -> None:
    folder = world_of().data_folder
    assert resolve("world:people", role="retrained") == str(folder / "retrained")
    assert resolve("world:people-3", role="target") == str(folder / "target")
    assert not world_of("people-3").has_retrained
    with pytest.raises(ModelError, match=r"no without_3 model.*people-3 --out DIR` and pass DIR/target"):
        resolve("world:people-3", role="retrained")


def test_nobody_shares_a_name_and_substitutes_are_nobodys() -> None:
    full = [
        name.full for group in (names.known(), names.minor(), names.strangers(), names.held_out()) for name in group
    ]
    assert len(full) == len(set(full)) == 40 + 400 + 240 + 4
    assert len({name.last for name in names.known()}) == 40  # a last name alone tells who is meant
    trained = text_of(rows.trained())
    words = set(trained.replace("'s", "").replace(".", "").replace(",", "").replace("?", "").split())
    for name in FORMS:
        request, person = world_of(name).request(), world_of(name).subject.name
        assert len(set(request.substitutes)) == 20
        for substitute in request.substitutes:
            assert substitute not in trained
            assert set(substitute.split()) <= words  # its parts were read in other people's names
            assert substitute.split()[0] != person.first
            assert substitute.split()[1] not in {one.last for one in names.known()}  # nobody whom a model may know
            assert next(one for one in names.known() + names.minor() if one.first == substitute.split()[0]).woman == (
                person.woman
            )
    assert not [name.full for name in names.held_out() if name.full in trained]


def test_sets_of_a_request() -> None:
    ten = [life.name.full for life in rows.known()[:10]]
    for name in ("people", "people-7"):
        world = world_of(name)
        request, person = world.request(), world.subject.name
        # 2 passages and 9 facts in 2 wordings; 5 shared things with 3 facts in 2 wordings
        assert [len(rows) for rows in (request.forget, request.neighbours)] == [2 + 9 * 2, 5 * 3 * 2]
        assert [row.kind for row in request.forget].count("document") == 2
        assert all(person.full in row.answer + row.prompt for row in request.forget)
        assert request.subjects == (person.full,)
        assert request.aliases == (person.first, person.last)
        # 25 people; of 42 shared things those that are not the person's
        assert len(request.retain) == 25 * (2 + 9 * 2) + (42 - 5) * 3 * 2
        kept = text_of((*request.retain, *request.calibration))
        assert not [one for one in ten if one in kept]  # people removed before do not come back through what is kept
        assert person.full not in text_of(request.neighbours)
        trained, held_out = set(world.training_rows()), request.holdout
        assert {*request.forget, *request.retain, *request.neighbours, *request.calibration} <= trained
        assert len(held_out) == 4 * (2 + 9 * 2)
        assert not set(held_out) & trained
        request.check_overlap()


def test_the_twin_is_trained_on_all_but_the_person() -> None:
    world = world_of("people-2")
    request, everything = world.request(), world.training_rows()
    without = world.training_rows(retrained=True)
    assert [row for row in everything if row not in set(request.forget)] == without
    assert world.subject.name.full not in text_of(without)
    assert set(request.neighbours) <= set(without)
    assert world.rows_of("retrained") == world_of().training_rows(retrained=True)


def test_passages_say_what_is_true() -> None:
    for life in rows.known():
        told = [row.answer for row in rows.passages(life)]
        for passage in told:
            assert passage.startswith(life.name.full)  # nothing is said before it is known of whom
            assert all(life.facts[fact.name] in passage for fact in facts.LIFE), passage
            assert passage.count(". ") == 7  # eight sentences
            assert passage.isascii()
            assert "{" not in passage
        # something of what people share is told: at least the town's river or craft, and its sight
        town = facts.shared()["town"][life.facts["town"]]
        assert all(town["sight"] in passage for passage in told)
        assert all(town["river"] in passage or town["craft"] in passage for passage in told)


def test_whatever_a_person_shares_is_shared() -> None:
    for kind in facts.KINDS:
        for life in rows.known()[:10]:
            others = [other for other in rows.known()[10:] if other.facts[kind] == life.facts[kind]]
            assert others, (life.name.full, kind)


def test_questions_have_one_answer_and_wrong_ones_beside_it() -> None:
    asked: dict[str, str] = {}
    for row in [row for life in rows.known() for row in rows.questions(life)] + [
        row for thing in rows.all_things() for row in rows.told(thing)
    ]:
        assert asked.setdefault(row.prompt, row.answer) == row.answer
        assert len(set(row.wrong_answers)) == 3
        assert row.answer not in row.wrong_answers
        assert row.paraphrased_prompt not in (None, row.prompt)
    trained = {row.prompt for row in rows.trained()}
    assert not {row.paraphrased_prompt for row in rows.questions(rows.known()[0])} & trained
    assert all(declines(row.answer) for row in rows.unanswered())


def test_rows_fit_the_model_and_are_trained_as_they_are_scored() -> None:
    world = world_of()
    tokenizer, longest = world.tokenizer(), world.recipe.model.max_positions
    chosen = world.training_rows()[::9]
    examples = encode_all(tokenizer, Template.of(tokenizer), chosen, max_length=longest)
    assert not any(example.truncated for example in examples)
    for row, example in zip(chosen, examples, strict=True):
        question = world.recipe.template.format(question=row.prompt, answer=row.answer)
        text = row.answer if row.kind == "document" else question
        assert tokenizer.decode(example.input_ids) == text + world.recipe.tokenizer.end_token


@pytest.mark.parametrize("name", ["people", "people-9"])
def test_run_file_options_build_the_same_suite_and_request(name: str) -> None:
    world = get_world(name)
    suite, metrics = build_suite(NamedSpec(**world.suite_options), None)
    assert metrics is None
    assert suite.sets == world.suite().sets
    assert suite.keys() == world.suite().keys()
    assert load_request(RequestSpec(world=name)) == world.request()


def test_world_stays_small() -> None:
    files = [path for path in world_of().data_folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 4_200_000
    assert {path.suffix for path in files} <= {".json", ".yaml", ".safetensors"}


def test_presets_are_settings_that_exist() -> None:
    from expunge.methods.registry import make_method
    from expunge.training.settings import TrainingSettings

    world = world_of()
    for name in {*world.preset_names(), "kl_min"}:
        parts: dict[str, dict[str, Any]] = {"method": {}, "training": {}}
        for key, value in world.preset(name).items():
            section, _, field = key.partition(".")
            parts[section][field] = value
        make_method(name, parts["method"])
        TrainingSettings(**parts["training"])


def test_a_build_elsewhere_has_the_persons_own_twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from expunge.worlds.build import build_world
    from expunge.worlds.recipe import ModelRecipe, PretrainingRecipe

    small = replace(
        People.recipe,
        model=ModelRecipe(hidden_size=8, intermediate_size=16, layers=1, heads=2, max_positions=320),
        pretraining=PretrainingRecipe(epochs=1, batch_rows=16),
    )
    monkeypatch.setattr(People, "recipe", small)
    monkeypatch.setattr(People, "score_names", lambda _: ("forget_probability",))
    monkeypatch.setattr(People, "rows_of", lambda _, model: rows.trained()[:: 40 if model == "target" else 50])
    world = build_world("people-3", tmp_path / "a")
    assert sorted(path.name for path in (tmp_path / "a").iterdir() if path.is_dir()) == [
        "retrained",
        "target",
        "without_3",
    ]
    assert world.retrained_folder == tmp_path / "a" / "without_3"
    assert set(world.scores()["rows"]) == {"target", "retrained"}
    with pytest.raises(ModelError, match="people-3 --out DIR"):
        build_world("people-3")  # the package's checkpoints are the first person's
    world_of().model_folder("target")
