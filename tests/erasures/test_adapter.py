"""Protects adapters: the target's weights are never touched, PEFT reads the folder, only the right model takes it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

import zoo
from expunge.erasures.adapter import Adapter, lora_config, with_lora
from expunge.errors import ErasureError
from expunge.methods.interface import Erasure
from expunge.models.loading import load_model
from fitting import fit, logits, snapshot

FAMILIES = ("llama", "gpt2", "gemma2", "opt", "mixtral")


def adapter(model: Any = None, family: str = "llama", **changed: Any) -> Any:
    return fit("npo", model=model, family=family, parameters="lora", max_steps=2, learning_rate=1e-2, **changed)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_applied_changes_the_outputs_and_leaves_no_trace(tmp_path: Path, family: str, dtype: str) -> None:
    model = zoo.model(family).to(getattr(torch, dtype))
    model.get_input_embeddings().weight.requires_grad_(False)
    before, plain = snapshot(model), logits(model)
    fitted = adapter(model, family)
    fitted.save(tmp_path / "e")
    loaded = Erasure.load(tmp_path / "e")
    assert isinstance(loaded, Adapter)
    seen = []
    for erasure in (fitted, loaded):
        with pytest.raises(RuntimeError, match="inside"), erasure.applied(model) as erased:
            assert erased is model
            assert not any(p.requires_grad for p in model.parameters())
            seen.append(logits(erased))
            raise RuntimeError("inside")
        assert snapshot(model) == before
        assert torch.equal(logits(model), plain)
    assert torch.equal(*seen)
    assert not torch.allclose(seen[0], plain, atol=1e-3)


def test_applied_by_hand() -> None:
    # LoRA adds (alpha / r) B A x to a layer: with r 2 and alpha 16 on one layer, 8 B A beside its weight.
    model: Any = zoo.model("llama")
    erasure = adapter(model, lora_rank=2, layers=("*.1.mlp.down_proj",))
    a, b = (next(t for name, t in erasure.tensors.items() if f"lora_{side}" in name) for side in ("A", "B"))
    layer = model.model.layers[1].mlp.down_proj
    x = torch.randn(3, 128, generator=torch.Generator().manual_seed(0))
    expected = x @ (layer.weight + 8 * b @ a).T
    with erasure.applied(model), torch.no_grad():
        torch.testing.assert_close(model.model.layers[1].mlp.down_proj(x), expected.detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_peft_loads_the_folder_by_itself(tmp_path: Path, family: str) -> None:
    model = zoo.model(family)
    erasure = adapter(model, family)
    erasure.save(tmp_path / "e")
    with erasure.applied(model):
        ours = logits(model)
    theirs = PeftModel.from_pretrained(zoo.model(family), str(tmp_path / "e")).eval()
    assert torch.equal(logits(theirs), ours)  # type: ignore[arg-type]


def test_generation_works_inside() -> None:
    model: Any = zoo.model("llama")
    erasure = adapter(model)
    ids = torch.tensor([[5, 6, 7]])
    with erasure.applied(model) as erased:
        assert erased.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0).shape[1] <= 6


def refused(erasure: Any, model: Any, message: str) -> None:
    before = snapshot(model)
    with pytest.raises(ErasureError, match=message), erasure.applied(model):
        pass
    assert snapshot(model) == before


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zoo.save("llama", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def made(folder: Path) -> Any:
    return adapter(load_model(folder))


def test_other_models_are_refused(made: Any, tmp_path: Path) -> None:
    refused(made, load_model(zoo.save("llama", tmp_path / "other", seed=1)), "made for another model: weights differ")
    refused(made, zoo.model("llama", seed=1), "made for other weights")
    refused(adapter(), zoo.model("llama", seed=1), "made for another model: weights differ")
    refused(made, zoo.model("gpt2"), "made for another model: config")


def test_a_model_changed_after_loading_is_refused(made: Any, folder: Path) -> None:
    model = load_model(folder)
    with torch.no_grad():
        model.get_parameter("model.layers.0.self_attn.q_proj.weight")[0, 0] += 1e-3
    refused(made, model, "changed after loading")
    change = fit("npo", model=load_model(folder), max_steps=1)
    erased = load_model(folder)
    with change.applied(erased):
        refused(made, erased, "made for other weights")


def test_another_precision_of_the_same_files_is_the_same_model(made: Any, folder: Path) -> None:
    from expunge.config.run_file import ModelSpec

    model = load_model(ModelSpec(path=str(folder), dtype="bfloat16"))  # type: ignore[call-arg]
    before, plain = snapshot(model), logits(model)
    with made.applied(model):
        assert not torch.equal(logits(model), plain)
    assert snapshot(model) == before


def test_memory_and_files_of_the_same_model_are_the_same_model(made: Any, folder: Path) -> None:
    with made.applied(zoo.model("llama")):
        pass
    with adapter().applied(load_model(folder)):
        pass


def test_a_second_adapter_is_refused_while_one_is_applied(made: Any, folder: Path) -> None:
    model = load_model(folder)
    before = snapshot(model)
    with made.applied(model):
        inside = logits(model)
        with pytest.raises(ErasureError, match="already carries an adapter"), made.applied(model):
            pass
        assert torch.equal(logits(model), inside)
        with (
            pytest.raises(ErasureError, match="does not fit the model"),
            fit("npo", model=load_model(folder), max_steps=1).applied(model),
        ):
            pass
    assert snapshot(model) == before


def test_tensors_without_a_place_are_refused(made: Any, folder: Path) -> None:
    stray = Adapter(
        made.manifest, {**made.tensors, "base_model.model.nowhere.lora_A.weight": torch.zeros(1)}, made.config
    )
    refused(stray, load_model(folder), "1 of its tensors have no place in it and 0 are missing")


def test_missing_tensors_are_refused(made: Any, folder: Path) -> None:
    fewer = dict(made.tensors)
    name = next(iter(fewer))
    del fewer[name]
    refused(
        Adapter(made.manifest, fewer, made.config),
        load_model(folder),
        r"0 of its tensors have no place in it and 1 are missing \(base_model",
    )


def test_peft_is_quiet_about_patterns_of_its_own() -> None:
    """For families whose experts it converts, PEFT adds rank patterns, and warns where no chosen layer fits them."""
    model = zoo.model("deepseek")
    layers = ["o_proj", "gate_proj", "up_proj", "down_proj"]
    values = {"r": 2, "target_modules": layers, "task_type": "CAUSAL_LM"}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with with_lora(model, lora_config(values)) as adapted:
            assert sum("o_proj.lora_A" in name for name, _ in adapted.named_parameters()) == 2  # one a layer
    assert [str(one.message) for one in said] == []


@pytest.mark.parametrize("family", ["deepseek", "mixtral", "qwen2_moe"])
def test_an_adapter_sits_on_the_modules_it_names_and_on_no_experts(family: str) -> None:
    model = zoo.model(family)
    named = [name for name, one in model.named_modules() if isinstance(one, torch.nn.Linear) and ".layers." in name]
    with with_lora(model, lora_config({"r": 2, "target_modules": named})) as adapted:
        found = {
            name.removeprefix("base_model.model.").split(".lora_A")[0]
            for name, _ in adapted.named_parameters()
            if ".lora_A" in name
        }
    assert found == set(named)
