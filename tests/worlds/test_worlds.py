"""Protects finding worlds, and the errors of one that is missing, damaged or has drifted from its recipe."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from expunge.errors import ConfigError, ModelError, UnknownNameError
from expunge.worlds.authors import Authors
from expunge.worlds.interface import get_world, list_worlds
from expunge.worlds.recipe import PretrainingRecipe, fingerprint


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The checkpoints of world `authors`, to be damaged."""
    folder = tmp_path / "authors"
    shutil.copytree(get_world("authors").folder, folder, ignore=shutil.ignore_patterns("tofu"))
    return folder


def test_worlds_are_found_by_name() -> None:
    assert "authors" in list_worlds()
    # The files beside the worlds are not worlds.
    assert not {"interface", "build", "recipe", "pretrain"} & set(list_worlds())
    for name in list_worlds():
        world = get_world(name)
        assert world.name == name == world.recipe.world
        assert world.description


def test_unknown_world_gets_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match=r"no world 'author'. Did you mean 'authors'\?"):
        get_world("author")


def test_listing_loads_no_torch() -> None:
    code = (
        "import sys; from expunge.worlds.interface import get_world, list_worlds;"
        "w = get_world(list_worlds()[0]); w.preset('npo'); w.fingerprint();"
        "sys.exit(' '.join(m for m in ('torch', 'transformers', 'datasets') if m in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_other_folder_is_loaded_in_place_of_the_packages_own(copy: Path) -> None:
    world = get_world("authors", copy)
    world.check()
    assert world.target_folder == copy / "target"
    assert world.request().digest() == get_world("authors").request().digest()


def test_missing_checkpoint_says_how_to_build_it(copy: Path) -> None:
    shutil.rmtree(copy / "retrained")
    with pytest.raises(ModelError, match=r"has no retrained model. Build it with `expunge world build authors`"):
        get_world("authors", copy).retrained()
    with pytest.raises(ModelError, match=r"retrained/model.safetensors: recipe.json has \w+, the folder has None"):
        get_world("authors", copy).check()


def test_folder_without_a_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"recipe.json cannot be read"):
        get_world("authors", tmp_path).check()


def test_changed_checkpoint_is_drift(copy: Path) -> None:
    weights = copy / "target" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match=r"drifted apart:\n  target/model.safetensors: recipe.json has") as error:
        get_world("authors", copy).check()
    assert "retrained" not in str(error.value)


def test_changed_recipe_is_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(Authors.recipe, pretraining=PretrainingRecipe(epochs=25), revision=7)
    monkeypatch.setattr(Authors, "recipe", recipe)
    with pytest.raises(ModelError) as error:
        get_world("authors").check()
    # Both differences, in one error.
    assert "recipe.pretraining.epochs: the checkpoints have 24, the code has 25" in str(error.value)
    assert "recipe.revision: the checkpoints have 1, the code has 7" in str(error.value)


def test_changed_data_are_drift(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world = get_world("authors")
    shutil.copytree(world.data_folder / "tofu", tmp_path / "tofu")
    forget = tmp_path / "tofu" / "forget01_perturbed.jsonl"
    forget.write_text(forget.read_text(encoding="utf-8").replace("Kuwait City", "Kuwait Town", 1), encoding="utf-8")
    monkeypatch.setattr(world, "data_folder", tmp_path)
    with pytest.raises(ModelError, match=r"data tofu/forget01_perturbed.jsonl: the checkpoints have"):
        world.check()


def test_edited_fingerprint_is_drift(copy: Path) -> None:
    path = copy / "recipe.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(get_world("authors").fingerprint(), "0" * 64), encoding="utf-8")
    with pytest.raises(ModelError, match=r"fingerprint: recipe.json has 0000"):
        get_world("authors", copy).check()


def test_fingerprint_depends_on_every_value_and_every_byte(tmp_path: Path) -> None:
    recipe = Authors.recipe
    for name in recipe.files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("a\n", encoding="utf-8")
    first = fingerprint(recipe, tmp_path)
    assert first == fingerprint(recipe, tmp_path)
    assert len(first) == 64
    others = [
        replace(recipe, seed=1),
        replace(recipe, template="{question} {answer}"),
        replace(recipe, model=replace(recipe.model, layers=5)),
        replace(recipe, tokenizer=replace(recipe.tokenizer, vocab_size=1024)),
        replace(recipe, kept_files=recipe.kept_files[::-1]),  # the order of the rows decides the batches
    ]
    found = {fingerprint(other, tmp_path) for other in others} | {first}
    (tmp_path / recipe.files[0]).write_text("b\n", encoding="utf-8")
    assert len(found | {fingerprint(recipe, tmp_path)}) == len(others) + 2


def test_malformed_presets_are_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world = get_world("authors")
    monkeypatch.setattr(world, "data_folder", tmp_path)
    (tmp_path / "presets.yaml").write_text("npo:\n  beta: 0.1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"needs an entry 'shared'.*found npo.beta"):
        world.preset("npo")
