"""Protects exported checkpoints: any engine loads them, their logits are the erased model's, the target is restored."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import expunge.commands.export as exporting
import zoo
from expunge.cli.export import summary
from expunge.commands.export import export, merged, write_checkpoint
from expunge.config.run_file import ModelSpec
from expunge.erasures.purpose import declare_harmful_copy
from expunge.errors import ErasureError, InputError, OutputError
from expunge.methods.interface import Erasure
from expunge.models.loading import load_model
from fitting import fit, logits, snapshot


def made(
    tmp_path: Path, family: str = "llama", dtype: str = "float32", **changed: Any
) -> tuple[Path, Path, torch.Tensor]:
    """A model folder, an erasure's folder and the erased model's logits."""
    source = zoo.save(family, tmp_path / "model")
    model = load_model(ModelSpec(path=str(source), dtype=dtype))  # type: ignore[call-arg,arg-type]
    erasure = fit("npo", model=model, family=family, max_steps=2, **{"learning_rate": 1e-2, **changed})
    erasure.save(tmp_path / "erasure")
    with erasure.applied(model):
        return source, tmp_path / "erasure", logits(model)


def _erasure(tmp_path: Path) -> None:
    """Some erasure, for what is refused before the model is looked at."""
    fit("npo", max_steps=1).save(tmp_path / "erasure")


def reloaded(folder: Path, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return logits(AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "opt", "mixtral"])
def test_a_weight_change_exports_with_identical_logits(tmp_path: Path, family: str, dtype: str) -> None:
    source, erasure, expected = made(tmp_path, family, dtype)
    assert export(erasure, tmp_path / "out", model=str(source)) == tmp_path / "out"
    assert exporting.foreign(tmp_path / "out") == []
    assert torch.equal(reloaded(tmp_path / "out", getattr(torch, dtype)), expected)
    assert not torch.equal(reloaded(source, getattr(torch, dtype)), expected)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_adapter_exports_merged_within_1e_5(tmp_path: Path, family: str) -> None:
    source, erasure, expected = made(tmp_path, family, parameters="lora")
    export(erasure, tmp_path / "out", model=str(source))
    torch.testing.assert_close(reloaded(tmp_path / "out"), expected, atol=1e-5, rtol=0)
    assert float((reloaded(source) - expected).abs().max()) > 1e-2
    assert not list((tmp_path / "out").glob("adapter*"))


def test_an_adapter_merged_in_bfloat16_says_what_rounding_did(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, erasure, expected = made(tmp_path, dtype="bfloat16", parameters="lora")
    with caplog.at_level(logging.WARNING, "expunge"):
        export(erasure, tmp_path / "out", model=str(source))
    assert "merged in torch.bfloat16: logits moved by up to" in caplog.text
    assert float((reloaded(tmp_path / "out", torch.bfloat16) - expected).abs().max()) < 0.1


def test_the_tokenizer_is_there_and_the_same(tmp_path: Path) -> None:
    source, erasure, _ = made(tmp_path, "qwen2")
    export(erasure, tmp_path / "out", model=str(source))
    ours, theirs = AutoTokenizer.from_pretrained(tmp_path / "out"), AutoTokenizer.from_pretrained(source)
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.chat_template == theirs.chat_template
    assert ours("In town 3")["input_ids"] == theirs("In town 3")["input_ids"]


def test_a_sharded_target_is_the_same_target(tmp_path: Path) -> None:
    source, erasure, expected = made(tmp_path)
    load_model(source).save_pretrained(tmp_path / "sharded", max_shard_size="100KB")
    zoo.tokenizer("llama").save_pretrained(tmp_path / "sharded")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 1
    export(erasure, tmp_path / "out", model=str(tmp_path / "sharded"))
    assert torch.equal(reloaded(tmp_path / "out"), expected)


def test_a_run_folder_names_its_model(tmp_path: Path) -> None:
    from expunge.config.run_file import make_config

    source, _, expected = made(tmp_path)
    config = make_config({"model": str(source), "request": "forget.jsonl", "method": "npo"})
    (tmp_path / "run.yaml").write_text(config.to_yaml(), encoding="utf-8")
    export(tmp_path, tmp_path / "from-run")
    export(tmp_path / "erasure", tmp_path / "from-erasure")
    for name in ("from-run", "from-erasure"):
        assert torch.equal(reloaded(tmp_path / name), expected)


def test_what_cannot_be_found_is_said(tmp_path: Path) -> None:
    _, erasure, _ = made(tmp_path)
    with pytest.raises(InputError, match=r"has no run.yaml that names the model. Pass --model"):
        export(erasure, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ErasureError, match="holds no erasure"):
        export(tmp_path / "empty", tmp_path / "out", model="m")
    for seed in (0, 1):
        (tmp_path / "run" / f"seed-{seed}" / "erasure").mkdir(parents=True)
    with pytest.raises(InputError, match="there is no folder"):
        export(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(InputError, match=r"holds 2 seeds. Pass one of them, such as .*seed-0"):
        export(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_refused_and_replaced_only_on_demand(tmp_path: Path) -> None:
    source, erasure, expected = made(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    export(erasure, out, model=str(source))  # an empty folder is no loss
    (out / "config.json").write_text("{}")
    (out / "model-00001-of-00002.safetensors").write_text("an older, larger checkpoint")
    with pytest.raises(OutputError, match=r"exists. Choose another folder, or pass --overwrite"):
        export(erasure, out, model=str(source))
    assert (out / "config.json").read_text() == "{}"
    export(erasure, out, model=str(source), overwrite=True)
    assert torch.equal(reloaded(out), expected)
    assert not (out / "model-00001-of-00002.safetensors").exists()


@pytest.mark.parametrize("name", ["notes.txt", "data.json", "README.md", "train.py", "weights.bin", "sub/model.bin"])
def test_what_is_no_checkpoint_is_never_replaced(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("mine")
    _erasure(tmp_path)
    with pytest.raises(OutputError, match=r"holds no checkpoint \(there is no config.json in it\)"):
        export(tmp_path / "erasure", out, model="any", overwrite=True)
    (out / "config.json").write_text("{}")
    with pytest.raises(OutputError, match=rf"holds more than a checkpoint \({name.split('/')[0]}\)"):
        export(tmp_path / "erasure", out, model="any", overwrite=True)
    assert (out / name).read_text() == "mine"


def test_a_harmful_copy_is_written_on_demand_only(tmp_path: Path) -> None:
    source, folder, expected = made(tmp_path)
    erasure = Erasure.load(folder)
    declare_harmful_copy(erasure)
    erasure.save(tmp_path / "harmful")
    with pytest.raises(InputError, match=r"is a harmful copy, not an erasure.*expunge negate.*--harmful-copy"):
        export(tmp_path / "harmful", tmp_path / "out", model=str(source))
    assert not (tmp_path / "out").exists()
    done = exporting.write(tmp_path / "harmful", tmp_path / "out", model=str(source), harmful_copy=True)
    assert (done.folder, done.method, done.harmful_copy) == (tmp_path / "out", "npo", True)
    torch.testing.assert_close(reloaded(tmp_path / "out"), expected)
    assert "a harmful copy by npo, not an erased model\nsubtract it: expunge negate" in summary(done)


def test_links_are_not_a_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("{}")
    (out / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    assert exporting.foreign(out) == ["model.safetensors"]


def test_the_target_the_current_folder_and_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = zoo.save("llama", tmp_path / "model")
    _erasure(tmp_path)
    before = sorted(path.read_bytes() for path in source.iterdir())
    with pytest.raises(OutputError, match=r"model is the target's own folder"):
        export(tmp_path / "erasure", tmp_path / "erasure" / ".." / "model", model=str(source), overwrite=True)
    assert sorted(path.read_bytes() for path in source.iterdir()) == before
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(OutputError, match=r"here is the current folder, which cannot be replaced. Name a folder in it"):
        export(tmp_path / "erasure", ".", model=str(source))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="file is a file"):
        export(tmp_path / "erasure", tmp_path / "file", model=str(source), overwrite=True)


def test_a_relative_folder_is_taken_from_the_current_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, erasure, expected = made(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert export(erasure, "../out/", model=str(source)) == tmp_path / "out"
    assert torch.equal(reloaded(tmp_path / "out"), expected)


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    source, erasure, _ = made(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(source)
    with pytest.raises(ErasureError, match=r"made for another model: tokenizer differ"):
        export(erasure, tmp_path / "out", model=str(source))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("parameters", ["full", "lora"])
def test_the_target_is_restored_before_the_checkpoint_is_loaded(
    tmp_path: Path, parameters: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(zoo.save("llama", tmp_path / "model"))
    erasure = fit("npo", model=model, max_steps=1, parameters=parameters, learning_rate=1e-2)
    before, seen = snapshot(model), []
    real = AutoModelForCausalLM.from_pretrained

    def load(*args: Any, **kwargs: Any) -> Any:
        seen.append(snapshot(model) == before)
        return real(*args, **kwargs)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load)
    write_checkpoint(model, zoo.tokenizer("llama"), erasure, tmp_path / "out")
    assert seen == [True]


def test_another_model_is_refused(tmp_path: Path) -> None:
    _, erasure, _ = made(tmp_path)
    other = zoo.save("llama", tmp_path / "other", seed=1)
    with pytest.raises(ErasureError, match="made for another model"):
        export(erasure, tmp_path / "out", model=str(other))
    assert not (tmp_path / "out").exists()


def test_hooks_cannot_be_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, erasure, _ = made(tmp_path)
    monkeypatch.setattr(Erasure, "load", lambda _: SimpleNamespace(kind="activations"))
    with pytest.raises(
        ErasureError, match=r"kind 'activations', which acts while the model runs.*erasure.applied\(model\)"
    ):
        export(erasure, tmp_path / "out", model=str(source))


@pytest.mark.parametrize("parameters", ["full", "lora"])
def test_the_target_is_restored_also_after_an_exception(tmp_path: Path, parameters: str) -> None:
    model = load_model(zoo.save("gpt2", tmp_path / "model"))
    erasure = fit("npo", model=model, family="gpt2", max_steps=1, parameters=parameters, learning_rate=1e-2)
    before, plain = snapshot(model), logits(model)
    write_checkpoint(model, zoo.tokenizer("gpt2"), erasure, tmp_path / "out")
    assert snapshot(model) == before
    with pytest.raises(RuntimeError, match="inside"), merged(model, erasure):
        assert not torch.equal(logits(model), plain)
        raise RuntimeError("inside")
    assert snapshot(model) == before


def test_a_checkpoint_with_other_logits_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, erasure, _ = made(tmp_path)
    real, calls = exporting.probe_logits, []

    def off(*args: Any) -> torch.Tensor:
        calls.append(1)
        return real(*args) + (1e-3 if len(calls) == 2 else 0)

    monkeypatch.setattr(exporting, "probe_logits", off)
    with pytest.raises(
        ErasureError, match=r"logits differ from the erased model's by 0.00.* \(allowed: 0\); it was not kept"
    ):
        export(erasure, tmp_path / "out", model=str(source))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["erasure", "model"]


def test_the_checkpoint_says_its_precision(tmp_path: Path) -> None:
    source, erasure, _ = made(tmp_path, dtype="bfloat16")
    export(erasure, tmp_path / "out", model=str(source))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
