"""Protects the builder: a seeded recipe gives the same models again, and nothing half-built takes their place."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from expunge.errors import ConfigError, ModelError, OutputError, TrainingError
from expunge.worlds import pretrain as pretraining
from expunge.worlds.authors import Authors
from expunge.worlds.build import build_world
from expunge.worlds.interface import checkpoint_hashes, get_world
from expunge.worlds.pretrain import new_model, pretrain, train_tokenizer, training_steps
from expunge.worlds.recipe import ModelRecipe, PretrainingRecipe, TokenizerRecipe

TEXTS = [f"Question: What is {n}?\nAnswer: It is number {n}." for n in range(40)]
TINY = ModelRecipe(hidden_size=16, intermediate_size=32, layers=1, heads=2, max_positions=128)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """World `authors` with a recipe of seconds."""
    recipe = replace(Authors.recipe, model=replace(TINY, max_positions=512), pretraining=PretrainingRecipe(epochs=1))
    monkeypatch.setattr(Authors, "recipe", recipe)
    monkeypatch.setattr(Authors, "score_names", lambda _: ("forget_probability", "forget_quality"))


def test_tokenizer_is_the_same_again_and_loses_no_text() -> None:
    recipe = TokenizerRecipe(files=(), vocab_size=300)
    first, second = (train_tokenizer(TEXTS, recipe, max_length=128) for _ in range(2))
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()
    assert (first.pad_token_id, first.eos_token_id, len(first)) == (0, 1, 300)
    for text in ("Ünïcode, 漢字 and\ttabs\n", "  two  spaces ,  kept . "):
        assert first.decode(first(text)["input_ids"]) == text


def test_pretraining_repeats_learns_and_leaves_the_random_state_alone() -> None:
    tokenizer = train_tokenizer(TEXTS, TokenizerRecipe(files=(), vocab_size=300), max_length=128)
    rows = tokenizer(TEXTS)["input_ids"]
    recipe = PretrainingRecipe(learning_rate=1e-2, epochs=20)
    state = torch.random.get_rng_state()
    models = [pretrain(new_model(tokenizer, TINY, seed=seed), rows, recipe, seed=seed, pad_id=0) for seed in (0, 0, 1)]
    assert torch.equal(state, torch.random.get_rng_state())
    weights = [torch.cat([p.flatten() for p in model.parameters()]) for model in models]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    ids = torch.tensor(rows[:1])
    fresh = new_model(tokenizer, TINY, seed=0)
    # The texts are nearly the same line, so a model that learned anything is far below the uniform log 300 = 5.7.
    assert fresh(input_ids=ids, labels=ids).loss > 5
    assert models[0](input_ids=ids, labels=ids).loss < 3


def test_every_epoch_sees_every_row_once_in_full_batches() -> None:
    recipe = PretrainingRecipe(batch_rows=4, pool_batches=3)
    lengths = [n % 7 + 1 for n in range(30)]
    order = torch.Generator().manual_seed(0)
    for _ in range(2):
        batches = pretraining._epoch_batches(lengths, recipe, order)
        assert sorted(i for batch in batches for i in batch) == list(range(30))
        assert len(batches) == training_steps(30, replace(recipe, epochs=1)) == 8  # 30 / 4 rounded up
        assert sorted(map(len, batches)) == [2] + [4] * 7


def test_learning_rate_warms_up_then_falls_to_nothing() -> None:
    share = pretraining._warm_cosine(100, 0.05)
    # 5 warm steps: 1/5, 2/5, .. 1; the cosine starts at step 5 with 1, has 1/2 half way (step 52.5) and ends near 0.
    assert [share(step) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert (share(52) + share(53)) / 2 == pytest.approx(0.5, abs=1e-3)
    assert 0 < share(99) < 1e-3


def test_padding_takes_no_part_in_the_loss() -> None:
    input_ids, labels = pretraining._pad([[5, 6, 7], [8]], 0)
    assert input_ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert labels.tolist() == [[5, 6, 7], [8, -100, -100]]


def test_stopping_ends_the_training() -> None:
    tokenizer = train_tokenizer(TEXTS, TokenizerRecipe(files=(), vocab_size=300), max_length=128)
    stop = threading.Event()
    stop.set()
    with pytest.raises(TrainingError, match="stopped at step 1 of 3"):
        pretrain(
            new_model(tokenizer, TINY, seed=0),
            tokenizer(TEXTS)["input_ids"],
            PretrainingRecipe(epochs=1),
            seed=0,
            pad_id=0,
            stop=stop,
        )


@pytest.mark.usefixtures("small")
def test_a_build_is_complete_repeatable_and_reports_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int, str]] = []
    threads = torch.get_num_threads()
    world = build_world("authors", tmp_path / "a", progress=lambda *step: seen.append(step))
    world.check()
    first = checkpoint_hashes(world.folder)
    assert torch.get_num_threads() == threads
    assert world.target_folder == tmp_path / "a" / "target"
    assert set(world.scores()["rows"]) == {"target", "retrained"}
    # ceil(657 / 16) + ceil(617 / 16) = 42 + 39 steps of one epoch.
    assert [step[:2] for step in seen if step[2].startswith("training")] == [(n, 81) for n in range(1, 82)]
    for path in (tmp_path / "a").rglob("*.safetensors"):
        assert path.stat().st_mode & 0o044 == 0o044
    # Another seed is another pair of models, and their folder says so.
    other = build_world("authors", tmp_path / "a", seed=1, overwrite=True)
    with pytest.raises(ModelError, match=r"recipe.seed: the checkpoints have 1, the code has 0"):
        other.check()
    # In place, what was there before goes, and the same recipe gives the same bits.
    own = tmp_path / "own"
    (own / "target").mkdir(parents=True)
    (own / "target" / "left_over.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr("expunge.worlds.build.get_world", lambda name, folder=None: get_world(name, folder or own))
    again = build_world("authors")
    again.check()
    assert again.folder == own
    assert sorted(path.name for path in own.iterdir()) == ["recipe.json", "retrained", "scores.json", "target"]
    assert checkpoint_hashes(own) == first != checkpoint_hashes(other.folder)


@pytest.mark.usefixtures("small")
def test_an_error_in_the_middle_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(done: int, total: int, what: str) -> None:
        raise RuntimeError(f"{what} {done} of {total}")

    with pytest.raises(RuntimeError, match=r"training target and retrained twin [12] of 81"):
        build_world("authors", tmp_path / "a", progress=fail)
    assert list(tmp_path.iterdir()) == []


def test_existing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="exists"):
        build_world("authors", tmp_path)


def test_other_seed_may_not_replace_the_packages_checkpoints() -> None:
    with pytest.raises(ConfigError, match="seed 5 is not the recipe's"):
        build_world("authors", seed=5)


@pytest.mark.slow
def test_rebuilding_the_world_finds_the_same_scores(tmp_path: Path) -> None:
    """On one machine a build repeats bit for bit (above, on a small recipe). On another processor sums round
    otherwise and training takes another path to the same place: means of per-row scores within 0.08, the KS statistic
    within 0.15 (6 of 40 rows), and what the world promises."""
    shipped = get_world("authors")
    world = build_world("authors", tmp_path / "rebuilt")
    world_hashes, shipped_hashes = checkpoint_hashes(world.folder), checkpoint_hashes(shipped.folder)
    assert {k: v for k, v in world_hashes.items() if k.endswith("tokenizer.json")} == {
        k: v for k, v in shipped_hashes.items() if k.endswith("tokenizer.json")
    }
    new, old = world.scores()["rows"], shipped.scores()["rows"]
    for model, scores in old.items():
        for key, entry in scores.items():
            if key == "forget_quality":
                continue  # a p-value: judged below, and through its statistic
            tolerance = 0.15 if key == "forget_quality_ks" else 0.08
            assert new[model][key]["value"] == pytest.approx(entry["value"], abs=tolerance), (model, key)
    assert new["target"]["forget_probability"]["value"] >= 0.88
    assert new["target"]["retain_probability"]["value"] >= 0.88
    assert new["target"]["forget_quality"]["value"] < 0.01
    assert new["retrained"]["forget_probability"]["value"] < 0.05
