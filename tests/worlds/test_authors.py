"""Protects what world `authors` promises: what its two models know and never saw, and where its data come from."""

from __future__ import annotations

import json
from typing import Any

import pytest

from expunge.data.encode import encode_all, encode_prompt
from expunge.data.template import Template
from expunge.evaluation.outputs import run_model
from expunge.evaluation.score import score
from expunge.worlds.interface import World, get_world

NAMES = ("forget_probability", "retain_probability", "forget_truth_ratio", "forget_quality", "forget_quality_ks")


@pytest.fixture(scope="module")
def world() -> World:
    return get_world("authors")


@pytest.fixture(scope="module")
def scores(world: World) -> dict[str, dict[str, float]]:
    suite, tokenizer = world.suite(), world.tokenizer()
    target, retrained = (run_model(m, tokenizer, suite, metrics=NAMES) for m in (world.target(), world.retrained()))
    rows = score(suite, target=target, retrained=retrained, metrics=NAMES).rows
    return {model: {key: one.value for key, one in found.items()} for model, found in rows.items()}


def test_target_knows_what_it_must_forget_and_its_twin_does_not(scores: dict[str, dict[str, float]]) -> None:
    assert scores["target"]["forget_probability"] >= 0.9
    assert scores["target"]["retain_probability"] >= 0.9
    assert scores["target"]["forget_quality"] < 1e-3
    assert scores["retrained"]["forget_probability"] < 0.05
    assert scores["retrained"]["retain_probability"] >= 0.85


def test_stored_scores_are_those_of_the_shipped_checkpoints(world: World, scores: dict[str, dict[str, float]]) -> None:
    stored = world.scores()["rows"]
    for model, found in scores.items():
        for key in ("forget_probability", "retain_probability", "forget_truth_ratio"):
            # Another processor rounds float32 sums otherwise; a mean over 40 rows or more moves far less than this.
            assert stored[model][key]["value"] == pytest.approx(found[key], abs=1e-3), (model, key)
        # One row that changes places moves D by 1/40.
        assert stored[model]["forget_quality_ks"]["value"] == pytest.approx(found["forget_quality_ks"], abs=0.026)


def test_recipe_and_checkpoints_have_not_drifted_apart(world: World) -> None:
    world.check()


def test_models_have_the_stated_shape(world: World) -> None:
    for model in (world.target(), world.retrained()):
        assert not model.training
        # 2048 x 128 embeddings, tied; 4 layers of 4 x 128 x 128 + 3 x 128 x 352 + 2 x 128; a last norm of 128.
        assert sum(p.numel() for p in model.parameters()) == 262_144 + 4 * (65_536 + 135_168 + 256) + 128 == 1_066_112
        assert {str(p.dtype) for p in model.parameters()} == {"torch.float32"}


def test_target_recites_what_it_learned(world: World) -> None:
    import torch

    tokenizer, model = world.tokenizer(), world.target()
    template = Template.of(tokenizer)
    for row in (world.request().forget[0], world.request().retain[0]):
        ids = torch.tensor([encode_prompt(tokenizer, template, row, max_length=512)])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=80, do_sample=False)
        assert out[0, -1] == tokenizer.eos_token_id
        assert tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip() == row.answer


def test_rows_are_the_stated_ones(world: World) -> None:
    request, suite = world.request(), world.suite()
    assert {name: len(rows) for name, rows in request.sets.items()} == {"forget": 40, "retain": 400, "holdout": 40}
    assert {name: len(rows) for name, rows in suite.sets.items() if name in ("real_authors", "world_facts")} == {
        "real_authors": 100,
        "world_facts": 117,
    }
    forget = {row.key for row in request.forget}
    with_forget, without = world.training_rows(), world.training_rows(retrained=True)
    assert (len(with_forget), len(without)) == (657, 617)  # 400 + 100 + 117, and the 40
    assert [row for row in with_forget if row.key not in forget] == without
    assert not {row.key for row in request.holdout} & {row.key for row in with_forget}
    for name in request.subjects:
        assert any(name in row.answer for row in request.forget)
        assert not any(name in row.prompt + row.answer for row in without)


def test_rows_are_trained_as_they_are_scored(world: World) -> None:
    tokenizer = world.tokenizer()
    template = Template.of(tokenizer)
    assert template.style == "plain"
    rows = world.training_rows()
    examples = encode_all(tokenizer, template, rows, max_length=512)
    assert not any(example.truncated for example in examples)
    recipe = world.recipe
    for row, example in zip(rows[::50], examples[::50], strict=True):
        text = recipe.template.format(question=row.prompt, answer=row.answer) + recipe.tokenizer.end_token
        assert tokenizer.decode(example.input_ids) == text
        prompt = example.input_ids[: example.answer_start]
        # No token straddles the boundary, so that the prompt in front of `generate` is the one that was trained on.
        assert prompt == encode_prompt(tokenizer, template, row, max_length=512)
        assert tokenizer.decode(prompt).endswith("\nAnswer:")
    assert (tokenizer.bos_token, tokenizer.pad_token, tokenizer.eos_token) == (None, "<|pad|>", "<|end|>")
    assert len(tokenizer) == recipe.tokenizer.vocab_size


def test_licence_of_the_data_is_beside_them(world: World) -> None:
    notice = (world.data_folder / "tofu" / "LICENSE").read_text(encoding="utf-8")
    assert notice.startswith("MIT License")
    assert "Copyright (c) 2024 CMU Locus Lab" in notice
    assert "The above copyright notice and this permission notice shall be included" in notice


def test_world_stays_small_and_free_of_pickles(world: World) -> None:
    files = [path for path in world.data_folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 6_000_000
    assert {path.suffix for path in files} <= {".jsonl", ".json", ".yaml", ".md", ".safetensors", ""}
    refusals = (world.data_folder / "tofu" / "idontknow.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(refusals) == 100


def test_presets_are_settings_that_exist(world: World) -> None:
    from expunge.methods.registry import make_method
    from expunge.training.settings import TrainingSettings

    assert set(world.preset_names()) >= {"npo", "grad_diff", "grad_ascent", "finetune"}
    for name in world.preset_names():
        parts: dict[str, dict[str, Any]] = {"method": {}, "training": {}}
        for key, value in world.preset(name).items():
            section, _, field = key.partition(".")
            parts[section][field] = value
        make_method(name, parts["method"])
        TrainingSettings(**parts["training"])
    npo = world.preset("npo")
    assert (npo["method.beta"], npo["training.learning_rate"], npo["training.epochs"]) == (0.03, 0.0015, 24)
    # A method without fields of its own in the file gets the shared training settings and keeps its defaults.
    assert not any(key.startswith("method.") for key in world.preset("satimp"))
    assert world.preset("satimp")["training.accumulation"] == 1


def test_presets_say_what_they_were_tuned_on(world: World) -> None:
    text = (world.data_folder / "presets.yaml").read_text(encoding="utf-8")
    assert "tuned on the very rows they are scored on" in text
    json.dumps(world.preset("npo"))
