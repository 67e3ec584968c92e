"""Protects ``run:DIR``: one removal after another, on the very weights that the one before left."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import zoo
from expunge.commands.export import export
from expunge.config.run_file import ModelSpec, make_config
from expunge.erasures.merging import merge
from expunge.erasures.of_run import chain, target_path
from expunge.erasures.purpose import declare_harmful_copy
from expunge.errors import ErasureError, InputError, ModelError
from expunge.methods.interface import Erasure
from expunge.models.fingerprint import fingerprint
from expunge.models.loading import load_model, load_tokenizer, resolve, tokens_at_most
from fitting import fit, logits, snapshot


def written(folder: Path, target: str, method: str = "npo", **changed: Any) -> Path:
    """A run folder with an erasure fitted on ``target``, as far as the next run reads it."""
    erasure = fit(method, model=load_model(target), max_steps=2, **{"learning_rate": 1e-2, **changed})
    erasure.save(folder / "erasure")
    values = {"model": target, "request": {"forget": "f.jsonl"}, "method": method}
    (folder / "run.yaml").write_text(yaml.safe_dump(values), "utf-8")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A target, a run on it, and a run on that run's erased model."""
    place = tmp_path_factory.mktemp("runs")
    target = zoo.save("llama", place / "target")
    first = written(place / "first", str(target))
    return target, first, written(place / "second", f"run:{first}", seed=1)


def test_erasures_are_applied_one_after_another(runs: tuple[Path, Path, Path]) -> None:
    target, first, second = runs
    assert chain(f"run:{second}") == (str(target), (first, second))
    assert chain(str(target)) == (str(target), ())
    by_hand = load_model(str(target))
    before = logits(by_hand)
    for folder in (first, second):
        for name, values in Erasure.load(folder / "erasure").tensors.items():  # type: ignore[attr-defined]
            by_hand.get_parameter(name).data.copy_(values)
    found = load_model(f"run:{second}")
    assert torch.equal(logits(found), logits(by_hand))
    assert not torch.equal(logits(found), before)
    assert not torch.equal(logits(load_model(f"run:{first}")), logits(found))
    assert not getattr(found, "_expunge_applied", ())  # a model like any other: nothing to lift


def test_it_is_a_target_of_its_own(runs: tuple[Path, Path, Path]) -> None:
    target, first, second = runs
    names = load_tokenizer(f"run:{second}")
    one, again = (fingerprint(load_model(f"run:{second}"), names) for _ in range(2))
    assert one == again
    assert one.basis == "memory"
    assert one.source == "second"
    assert one.weights != fingerprint(load_model(f"run:{first}"), names).weights
    assert one.config == fingerprint(load_model(str(target)), names).config
    assert tokens_at_most(f"run:{second}", 10**6) == 512
    # the second erasure is of the first one's model, not of what that began with
    erasure = Erasure.load(second / "erasure")
    with pytest.raises(ErasureError, match="made for other weights"), erasure.applied(load_model(str(target))):
        pass
    with erasure.applied(load_model(f"run:{first}")):
        pass


def test_an_adapter_after_a_weight_change_is_exported_whole(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, first, _ = runs
    folder = written(tmp_path / "adapted", f"run:{first}", parameters="lora")
    expected = logits(load_model(f"run:{folder}"))
    out = export(folder, tmp_path / "out")
    torch.testing.assert_close(logits(load_model(str(out))), expected, atol=1e-5, rtol=0)
    assert "run:" not in (out / "config.json").read_text("utf-8")


def test_an_earlier_run_that_changed_is_noticed(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    target, first, _ = runs
    copy = Path(shutil.copytree(first, tmp_path / "first"))
    second = written(tmp_path / "second", f"run:{copy}")
    shutil.rmtree(copy)
    written(copy, str(target), seed=5)
    with pytest.raises(ErasureError, match=r"the run in .*second: this erasure was made for another model: weights"):
        load_model(f"run:{second}")


def test_what_leaves_no_changed_weights_is_refused(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    target, first, second = runs
    with pytest.raises(ModelError, match="expunge export"):
        resolve(f"run:{second}", role="target")
    with pytest.raises(ModelError, match="checkpoint and quantise that"):
        load_model(ModelSpec(path=f"run:{second}", quantization="nf4"))  # type: ignore[call-arg]
    guard = written(tmp_path / "guard", str(target), "unlearn_prompt")
    with pytest.raises(ErasureError, match=r"changes no weights \(kind 'inputs'\)"):
        load_model(f"run:{guard}")
    with pytest.raises(ErasureError, match="acts while the model runs"):
        merge(load_model(str(target)), Erasure.load(guard / "erasure"))
    harmful = Erasure.load(first / "erasure")
    declare_harmful_copy(harmful)
    harmful.save(tmp_path / "harmful" / "erasure")
    shutil.copy(first / "run.yaml", tmp_path / "harmful" / "run.yaml")
    with pytest.raises(ErasureError, match="is a harmful copy"):
        load_model(f"run:{tmp_path / 'harmful'}")
    with pytest.raises(InputError, match="there is no folder"):
        target_path("run:nowhere")
    looped = tmp_path / "looped"
    shutil.copytree(first, looped)
    values = {"model": f"run:{looped}", "request": {"forget": "f.jsonl"}, "method": "npo"}
    (looped / "run.yaml").write_text(yaml.safe_dump(values), "utf-8")
    with pytest.raises(ModelError, match="has itself for a target"):
        chain(f"run:{looped}")


def test_a_refused_merge_leaves_the_model_as_it_was(runs: tuple[Path, Path, Path]) -> None:
    target, _, second = runs
    model = load_model(str(target))
    before = snapshot(model)
    with pytest.raises(ErasureError):
        merge(model, Erasure.load(second / "erasure"))
    assert snapshot(model) == before


def test_a_run_file_names_the_run_from_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    values = {"model": "run:runs", "request": {"forget": "f.jsonl"}, "method": "npo"}
    assert make_config(values).model.path == f"run:{tmp_path / 'runs'}"
    assert make_config({**values, "model": "run:elsewhere"}).model.path == "run:elsewhere"
