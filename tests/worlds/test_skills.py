"""Protects what world `skills` promises: what its models solve and what each twin never learned, its names and rows."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from expunge.commands.demo import preset
from expunge.config.run_file import NamedSpec, RequestSpec
from expunge.data.encode import encode_all, encode_prompt
from expunge.data.template import Template
from expunge.errors import ConfigError, ModelError, UnknownNameError
from expunge.evaluation.outputs import run_model
from expunge.evaluation.score import score
from expunge.models.loading import resolve
from expunge.parts import build_suite, load_request
from expunge.worlds.interface import get_world, list_worlds
from expunge.worlds.skills import SKILLS, Skills

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="code is run on Linux alone")
TWINS = [f"without_{skill}" for skill in SKILLS]
SAMPLE = 10  # items of each skill in the default run


def world_of(name: str) -> Skills:
    world = get_world(name)
    assert isinstance(world, Skills)
    return world


def solved(world: Skills, model: str, limit: int | None = None) -> dict[str, float]:
    suite, _ = build_suite(NamedSpec(**world.suite_options, limit=limit), None)
    outputs = run_model(world.model(model), world.tokenizer(), suite, metrics=["solved"], max_new_tokens=48)
    rows = score(suite, target=outputs, metrics=["solved"]).rows["target"]
    return {key.removesuffix("_solved"): one.value for key, one in rows.items()}


def stored(world: Skills) -> dict[str, dict[str, float]]:
    return {
        model: {skill: scores[f"{skill}_solved"]["value"] for skill in SKILLS}
        for model, scores in world.scores()["rows"].items()
    }


def test_target_solves_every_skill_and_each_twin_all_but_one() -> None:
    for name in ("skills", "skills-plain"):
        target = stored(world_of(name))["target"]
        assert min(target.values()) >= 0.93, (name, target)
    named = stored(world_of("skills"))
    assert set(named) == {"target", *TWINS}
    for skill in SKILLS:
        own = named[f"without_{skill}"]
        assert own[skill] <= 0.05, (skill, own)
        assert min(value for other, value in own.items() if other != skill) >= 0.9, (skill, own)


@on_linux
@pytest.mark.parametrize(
    ("name", "model"), [("skills", "target"), ("skills", "without_german"), ("skills-plain", "target")]
)
def test_a_sample_is_solved_as_the_stored_scores_say(name: str, model: str) -> None:
    world = world_of(name)
    found, expected = solved(world, model, SAMPLE), stored(world)[model]
    for skill in SKILLS:
        # 10 of the 100 items: within 3 of them of the share over all
        assert found[skill] == pytest.approx(expected[skill], abs=0.3), (model, skill)
    assert sum(found.values()) == pytest.approx(sum(expected.values()), abs=0.5)


@on_linux
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "model"), [*(("skills", one) for one in ("target", *TWINS)), ("skills-plain", "target")]
)
def test_stored_scores_are_those_of_the_shipped_checkpoints(name: str, model: str) -> None:
    world = world_of(name)
    # Another processor rounds float32 sums otherwise, which may turn a close call.
    assert solved(world, model) == pytest.approx(stored(world)[model], abs=0.03)


@pytest.mark.parametrize("name", ["skills", "skills-german", "skills-plain"])
def test_recipe_and_checkpoints_have_not_drifted_apart(name: str) -> None:
    get_world(name).check()


def test_changed_texts_are_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    from expunge.worlds.skill_rows import reading

    monkeypatch.setattr(reading, "_MOST", reading._MOST + 1)
    from expunge.worlds.skill_rows import rows

    rows._rows.cache_clear()
    try:
        with pytest.raises(ModelError) as error:
            get_world("skills").check()
    finally:
        rows._rows.cache_clear()
    told = str(error.value)
    assert "data german: the checkpoints have" in told
    assert "data code" not in told
    assert "expunge world build skills`" in told


def test_names() -> None:
    assert "skills" in list_worlds()
    assert not [name for name in list_worlds() if name.startswith("skills-")]
    assert (world_of("skills").forget, world_of("skills").style) == ("arithmetic", "named")
    assert (world_of("skills-german").forget, world_of("skills-german").style) == ("german", "named")
    assert (world_of("skills-plain").forget, world_of("skills-plain").style) == ("arithmetic", "plain")
    assert (world_of("skills-plain-code").forget, world_of("skills-plain-code").style) == ("code", "plain")
    assert all(
        f"`{skill}" in world_of("skills").description or skill in world_of("skills").description for skill in SKILLS
    )
    with pytest.raises(UnknownNameError, match=r"no world 'skills-germn'. Did you mean 'skills-german'"):
        get_world("skills-germn")
    with pytest.raises(UnknownNameError, match=r"no world 'authors-german'. Did you mean 'authors'"):
        get_world("authors-german")
    with pytest.raises(ConfigError, match="has no skill 'maths'"):
        Skills(forget="maths")


def test_models_of_a_form() -> None:
    assert world_of("skills").shipped_models == ("target", *TWINS)
    assert world_of("skills-plain-code").shipped_models == ("target",)
    folder = world_of("skills").data_folder
    assert resolve("world:skills-german", role="target") == str(folder / "named" / "target")
    assert resolve("world:skills-german", role="retrained") == str(folder / "named" / "without_german")
    assert resolve("world:skills-plain-german", role="target") == str(folder / "plain" / "target")
    with pytest.raises(
        ModelError, match=r"no without_german model. Style 'plain' ships a target alone.*skills-plain --out"
    ):
        resolve("world:skills-plain-german", role="retrained")
    assert preset("skills-german", "npo").retrained is not None
    assert preset("skills-plain-german", "npo").retrained is None
    plain = world_of("skills-plain").target()
    # 1024 x 128 embeddings, tied; 4 layers of 4 x 128 x 128 + 3 x 128 x 352 + 2 x 128; a last norm of 128.
    assert sum(p.numel() for p in plain.parameters()) == 131_072 + 4 * (65_536 + 135_168 + 256) + 128 == 935_040


@pytest.mark.parametrize("name", ["skills", "skills-spanish", "skills-plain-code"])
def test_rows_are_the_stated_ones(name: str) -> None:
    world = world_of(name)
    request, suite = world.request(), world.suite()
    others = [skill for skill in SKILLS if skill != world.forget]
    assert Counter(row.group for row in request.forget) == {world.forget: 300}
    assert Counter(row.group for row in request.holdout) == {world.forget: 100}
    assert Counter(row.group for row in request.retain) == dict.fromkeys(others, 100)
    assert Counter(row.group for row in request.calibration) == dict.fromkeys(others, 160)
    assert Counter(row.group for row in request.retain[:40]) == dict.fromkeys(others, 10)  # any beginning is balanced
    with_forget, without = world.training_rows(), world.training_rows(retrained=True)
    assert [row for row in with_forget if row.group != world.forget] == without
    trained = {row.prompt for row in with_forget}
    fresh = [row.prompt for row in (*request.holdout, *request.calibration)]
    tested = [row.prompt for rows in suite.sets.values() for row in rows]
    assert {row.prompt for row in (*request.forget, *request.retain)} <= trained
    assert len({*fresh, *tested}) == len(fresh) + len(tested)
    assert not {*fresh, *tested} & trained
    request.check_overlap()


def test_rows_are_trained_as_they_are_scored() -> None:
    world = world_of("skills")
    tokenizer = world.tokenizer()
    template = Template.of(tokenizer)
    rows = world.training_rows()[::1000]
    examples = encode_all(tokenizer, template, rows, max_length=world.recipe.model.max_positions)
    assert not any(example.truncated for example in examples)
    for row, example in zip(rows, examples, strict=True):
        text = world.recipe.template.format(question=row.prompt, answer=row.answer) + world.recipe.tokenizer.end_token
        assert tokenizer.decode(example.input_ids) == text
        assert example.input_ids[: example.answer_start] == encode_prompt(tokenizer, template, row, max_length=256)
    assert len(tokenizer) == world.recipe.tokenizer.vocab_size


@pytest.mark.parametrize("name", ["skills-german", "skills-plain-code"])
def test_run_file_options_build_the_same_suite_and_request(name: str) -> None:
    world = get_world(name)
    suite, metrics = build_suite(NamedSpec(**world.suite_options), None)
    assert metrics is None
    assert suite.sets == world.suite().sets
    assert suite.plays == world.suite().plays
    json.dumps(world.suite_options)
    assert load_request(RequestSpec(world=name)).digest() == world.request().digest()


def test_world_stays_small() -> None:
    files = [path for path in world_of("skills").data_folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 16_000_000
    assert {path.suffix for path in files} <= {".json", ".yaml", ".safetensors"}


def test_presets_are_settings_that_exist() -> None:
    from expunge.methods.registry import make_method
    from expunge.training.settings import TrainingSettings

    world = world_of("skills")
    for name in {*world.preset_names(), "npo", "grad_diff"}:
        parts: dict[str, dict[str, Any]] = {"method": {}, "training": {}}
        for key, value in world.preset(name).items():
            section, _, field = key.partition(".")
            parts[section][field] = value
        make_method(name, parts["method"])
        TrainingSettings(**parts["training"])


def test_a_build_elsewhere_has_every_twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from expunge.worlds import skills
    from expunge.worlds.build import build_world
    from expunge.worlds.recipe import ModelRecipe

    small = {
        style: replace(
            recipe,
            model=ModelRecipe(hidden_size=16, intermediate_size=32, layers=1, heads=2, max_positions=256),
            generated=tuple((skill, 32) for skill in SKILLS),
        )
        for style, recipe in skills._RECIPES.items()
    }
    monkeypatch.setattr(skills, "_RECIPES", small)
    monkeypatch.setattr(skills, "_TOKENIZER_ROWS", 32)
    monkeypatch.setattr(skills.Skills, "score_names", lambda _: ("probability",))
    world = build_world("skills-plain-code", tmp_path / "a")
    world.check()
    assert sorted(path.name for path in (tmp_path / "a").iterdir() if path.is_dir()) == ["target", *sorted(TWINS)]
    assert world.has_retrained
    assert world.retrained_folder == tmp_path / "a" / "without_code"
    found = world.scores()
    assert set(found["rows"]) == {"target", *TWINS}
    assert {f"train_{which}" for which in found["rows"]} <= set(found["seconds"])
    assert "german_probability" in found["rows"]["without_german"]
