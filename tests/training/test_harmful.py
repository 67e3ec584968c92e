"""Protects what counts as a harmful model: every form gives the same difference, and what does not fit is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from expunge import negate
from expunge.commands.export import export
from expunge.config.run_file import ModelSpec, make_config
from expunge.erasures.manifest import read_manifest
from expunge.erasures.purpose import HARMFUL_COPY, declare_harmful_copy
from expunge.errors import ErasureError, InputError, ModelError
from expunge.files import write_json
from expunge.models.loading import load_model, load_tokenizer
from fitting import REQUEST, logits
from negating import formula, lora, names, save, tensors


def fitted(target: Path, folder: Path, *, dtype: str = "float32", **changed: Any) -> Path:
    """A harmful copy made from ``target``, as the run of a command leaves it."""
    from expunge import make_method
    from expunge.training.run import Run
    from fitting import settings

    spec = ModelSpec(path=str(target), dtype=dtype)  # type: ignore[call-arg,arg-type]
    erasure = make_method("npo").fit(
        load_model(spec),
        load_tokenizer(spec),
        REQUEST,
        run=Run(settings(max_steps=2, **{"learning_rate": 1e-2, **changed})),
    )
    declare_harmful_copy(erasure)
    erasure.save(folder)
    return folder


def remade(erasure: Path, **values: Any) -> None:
    """Change an erasure's manifest, with a right digest."""
    manifest = read_manifest(erasure)
    write_json(erasure / "manifest.json", manifest.model_copy(update=values).to_json())


# --- erasures ---


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("parameters", ["full", "lora"])
def test_an_erasure_is_its_exported_checkpoint(tmp_path: Path, family: str, parameters: str) -> None:
    target = save(tmp_path / "target", family, shard="100KB")
    erasure = fitted(target, tmp_path / "run" / "erasure", parameters=parameters)
    export(erasure, tmp_path / "exported", model=str(target), harmful_copy=True)
    (tmp_path / "run" / "run.yaml").write_text(
        make_config({"model": str(target), "request": "forget.jsonl", "method": "npo"}).to_yaml()
    )
    negate(target, erasure, out=tmp_path / "a", scale=0.7)
    negate(target, tmp_path / "run", out=tmp_path / "b", scale=0.7)  # the run folder stands for its erasure
    expected = formula(target, [tmp_path / "exported"], 0.7)
    for name in ("a", "b"):
        torch.testing.assert_close(logits(load_model(tmp_path / name)), expected, atol=3e-5, rtol=1e-4)
    assert float((expected - logits(load_model(target))).abs().max()) > 1e-2


def test_an_erasure_made_in_another_precision(tmp_path: Path) -> None:
    """Its difference is to the rounded weights it was made from; what it left alone is the target bit for bit."""
    target = save(tmp_path / "target")
    erasure = fitted(target, tmp_path / "erasure", dtype="bfloat16", layers=("*.1.mlp.down_proj.*",))
    negate(target, erasure, out=tmp_path / "out")
    name, new = next(iter(load_file(erasure / "weights.safetensors").items()))
    before, after = tensors(target), tensors(tmp_path / "out")
    expected = before[name] - (new.float() - before[name].bfloat16().float())
    assert torch.equal(after[name], expected)
    assert all(torch.equal(after[other], before[other]) for other in before if other != name)


def test_an_adapter_of_a_quantised_copy_is_refused(tmp_path: Path) -> None:
    target = save(tmp_path / "target")
    erasure = fitted(target, tmp_path / "erasure", parameters="lora")
    remade(erasure, target=replace(read_manifest(erasure).target, quantization="nf4"))
    with pytest.raises(ErasureError, match=r"copy of the target in nf4.*Fit the harmful copy on the target in full"):
        negate(target, erasure, out=tmp_path / "out")


def test_an_erasure_of_another_model_is_refused(tmp_path: Path) -> None:
    target, other = save(tmp_path / "target"), save(tmp_path / "other", moved=0.01)
    for parameters in ("full", "lora"):
        erasure = fitted(other, tmp_path / parameters, parameters=parameters)
        with pytest.raises(ErasureError, match="made for another model: weights differ"):
            negate(target, erasure, out=tmp_path / "out")
    weights = tmp_path / "full" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ErasureError, match="is damaged"):
        negate(other, tmp_path / "full", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_erasures_that_cannot_be_negated(tmp_path: Path) -> None:
    from fitting import fit

    target = save(tmp_path / "target")
    fit("npo", max_steps=1).save(tmp_path / "memory")
    for made in ({}, {"method": "sku", "parameters": {"stage": "both"}}):
        remade(tmp_path / "memory", **made)
        name = made.get("method", "npo")
        with pytest.raises(InputError, match=rf"is an erasure by {name}, not a harmful model.*expunge export it"):
            negate(target, tmp_path / "memory", out=tmp_path / "out")
    harmful = (
        {"details": {"purpose": HARMFUL_COPY}},
        {"details": {}, "parameters": {"stage": "harmful"}},  # as earlier versions left it
        {"method": "finetune", "parameters": {}},
    )
    for made in harmful:
        remade(tmp_path / "memory", **made)
        with pytest.raises(ErasureError, match=r"made from a model in memory.*expunge export"):
            negate(target, tmp_path / "memory", out=tmp_path / "out")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.yaml").write_text("")
    with pytest.raises(InputError, match="holds a run without an erasure"):
        negate(target, tmp_path / "run", out=tmp_path / "out")
    for seed in (0, 1):
        (tmp_path / "run" / f"seed-{seed}" / "erasure").mkdir(parents=True)
    with pytest.raises(InputError, match=r"holds 2 seeds. Pass one of them, such as .*seed-0"):
        negate(target, tmp_path / "run", out=tmp_path / "out")


def test_names_that_differ_in_memory_are_exported_first(tmp_path: Path) -> None:
    """Mixtral's experts lie one by one in the files and together in memory, where an erasure names them."""
    target = save(tmp_path / "target", "mixtral")
    erasure = fitted(target, tmp_path / "erasure")
    with pytest.raises(ModelError, match=r"experts.down_proj has no place in the target's files.*export the harmful"):
        negate(target, erasure, out=tmp_path / "out")
    export(erasure, tmp_path / "exported", model=str(target), harmful_copy=True)
    negate(target, tmp_path / "exported", out=tmp_path / "out")
    torch.testing.assert_close(
        logits(load_model(tmp_path / "out")), formula(target, [tmp_path / "exported"], 1.0), atol=3e-5, rtol=1e-4
    )


# --- checkpoints whose names or shapes differ ---


def rewrite(folder: Path, change: Any) -> None:
    """Replace a folder's tensors by what ``change`` makes of them."""
    save_file(change(tensors(folder)), folder / "model.safetensors", metadata={"format": "pt"})


def test_all_mismatches_of_all_models_are_named_at_once_before_anything_is_written(tmp_path: Path) -> None:
    target = save(tmp_path / "target", shard="100KB")
    wide = save(tmp_path / "wide", intermediate_size=256)
    holed = save(tmp_path / "holed")
    rewrite(
        holed,
        lambda found: {
            **{name: t for name, t in found.items() if name != "model.norm.weight"},
            "model.layers.1.input_layernorm.weight": torch.ones(64, dtype=torch.int8),
            "model.extra.weight": torch.ones(2),
        },
    )
    with pytest.raises(ModelError) as error:
        negate(target, [wide, holed], out=tmp_path / "out")
    said = str(error.value)
    assert "9 tensors do not match the target's, so nothing was written" in said
    for layer in (0, 1):
        for name, shape, ours in (("gate", (256, 64), (128, 64)), ("down", (64, 256), (64, 128))):
            line = f"model.layers.{layer}.mlp.{name}_proj.weight is {shape} in the harmful model, {ours} in the target"
            assert line in said
    assert said.index(f"{wide}:") < said.index(f"{holed}:") < said.index("model.norm.weight is in the target alone")
    assert "model.extra.weight is in the harmful model alone" in said
    assert "model.layers.1.input_layernorm.weight is I8 in the harmful model, F32 in the target" in said
    assert names(tmp_path) == ["holed", "target", "wide"]


@pytest.mark.parametrize("missing", ["target", "harm", "neither", "other"])
def test_tied_weights_may_lie_under_either_name_or_both(tmp_path: Path, missing: str) -> None:
    embedding, head = "model.embed_tokens.weight", "lm_head.weight"
    target, harmful = save(tmp_path / "target", "llama3"), save(tmp_path / "harm", "llama3", moved=0.01)
    expected = formula(target, [harmful], 0.7)

    def both(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {**found, head: found[embedding].clone()}

    def renamed(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {head if name == embedding else name: tensor for name, tensor in found.items()}

    for folder, changes in ((target, ("harm", "neither")), (harmful, ("target", "neither"))):
        if missing in changes:
            rewrite(folder, both)
    if missing == "other":
        rewrite(harmful, renamed)
    negate(target, harmful, out=tmp_path / "out", scale=0.7)
    torch.testing.assert_close(logits(load_model(tmp_path / "out")), expected, atol=2e-5, rtol=1e-4)
    found = tensors(tmp_path / "out")
    assert found.keys() == tensors(target).keys()
    assert head not in found or torch.equal(found[head], found[embedding])


def test_an_untied_copy_of_a_tied_model_is_another_architecture(tmp_path: Path) -> None:
    target = save(tmp_path / "target", "llama3")
    harmful = save(tmp_path / "harm", "llama3", moved=0.01, tie_word_embeddings=False)
    with pytest.raises(ModelError, match=r"lm_head.weight is in the harmful model alone"):
        negate(target, harmful, out=tmp_path / "out")


def test_names_without_the_bodys_prefix_and_old_buffers(tmp_path: Path) -> None:
    """GPT-2's first checkpoints have no ``transformer.`` before their names, and keep the attention's mask."""
    target, harmful = save(tmp_path / "target", "gpt2"), save(tmp_path / "harm", "gpt2", moved=0.01)
    expected = formula(target, [harmful], 0.7)
    rewrite(
        target,
        lambda found: {
            **{name.removeprefix("transformer."): t for name, t in found.items()},
            "h.0.attn.bias": torch.ones(4, 4).tril().bool(),
        },
    )
    negate(target, harmful, out=tmp_path / "out", scale=0.7)
    torch.testing.assert_close(logits(load_model(tmp_path / "out")), expected, atol=2e-5, rtol=1e-4)
    negate(harmful, target, out=tmp_path / "back")  # and the other way round


def test_models_that_are_no_match_at_all(tmp_path: Path) -> None:
    target = save(tmp_path / "target")
    with pytest.raises(ModelError, match="is a model of type 'mistral' and the target one of type 'llama'"):
        negate(target, save(tmp_path / "mistral", "mistral"), out=tmp_path / "out")
    harmful = save(tmp_path / "harm")
    config = json.loads((harmful / "config.json").read_text())
    (harmful / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(ModelError, match=r"the harmful model in .* is quantised \(gptq\)"):
        negate(target, harmful, out=tmp_path / "out")
    (harmful / "model.safetensors").rename(harmful / "pytorch_model.bin")
    (harmful / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"harmful model .* has no model.safetensors.*save_pretrained"):
        negate(target, harmful, out=tmp_path / "out")
    adapter, _ = lora(target, tmp_path / "adapter", target_modules=["q_proj"])
    (adapter / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"holds both an adapter .* and a model"):
        negate(target, adapter, out=tmp_path / "out")


def test_an_architecture_that_cannot_be_made_still_gets_its_names_compared(tmp_path: Path) -> None:
    target, harmful = save(tmp_path / "target"), save(tmp_path / "harm", moved=0.01)
    for folder in (target, harmful):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "nobodys"}))
    negate(target, harmful, out=tmp_path / "out")  # the same names: no architecture is needed
    rewrite(harmful, lambda found: {name: t for name, t in found.items() if name != "model.norm.weight"})
    with pytest.raises(ModelError) as error:
        negate(target, harmful, out=tmp_path / "again")
    assert "model.norm.weight is in the target alone" in str(error.value)
    assert "transformers cannot make it" in str(error.value)


def test_names_that_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = save(tmp_path / "target")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=r"there is no folder '/nowhere' for the harmful model"):
        negate(target, "/nowhere", out=tmp_path / "out")
    with pytest.raises(ModelError, match="the harmful model's path is empty"):
        negate(target, "", out=tmp_path / "out")
    with pytest.raises(ModelError, match=r"no hub model of that name in the local cache.*hf download nobody/nothing"):
        negate("nobody/nothing", target, out=tmp_path / "out")


def test_hub_ids_are_read_from_the_local_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants
    import transformers.utils.hub

    def cached(name: str) -> Path:
        repo = tmp_path / "hub" / f"models--nobody--{name}"
        (repo / "refs").mkdir(parents=True)
        (repo / "refs" / "main").write_text("0" * 40)
        return repo / "snapshots" / ("0" * 40)

    target = save(cached("model"))
    lora(target, cached("adapter"), target_modules=["q_proj"])
    for module, name in (
        (huggingface_hub.constants, "HF_HUB_CACHE"),
        (huggingface_hub.file_download.constants, "HF_HUB_CACHE"),
        (transformers.utils.hub.constants, "HF_HUB_CACHE"),
    ):
        monkeypatch.setattr(module, name, str(tmp_path / "hub"))
    negate("nobody/model", "nobody/adapter", out=tmp_path / "out")
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert len(json.loads((tmp_path / "out" / "negation.json").read_text())["changed"]) == 2
