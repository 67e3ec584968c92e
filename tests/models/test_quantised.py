"""Protects quantised targets: identity, gradients through rounded layers, and erasures that hold for one precision."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import zoo
from expunge import extras
from expunge.commands.export import check_mergeable, export
from expunge.config.run_file import ModelSpec
from expunge.erasures.adapter import base_digest
from expunge.errors import ConfigError, ErasureError, ModelError
from expunge.methods.interface import Erasure
from expunge.models.fingerprint import Fingerprint, fingerprint, quantization_name
from expunge.models.loading import load_model, load_tokenizer
from expunge.models.quantised import check_differentiable, check_same_quantization, keep_differentiable
from fitting import fit, logits, settings, snapshot

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
BITS = ("int8", "nf4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zoo.save("llama", tmp_path_factory.mktemp("model"))


def quantised(folder: Path, bits: Any) -> Any:
    return load_model(ModelSpec(path=str(folder), quantization=bits, device="cpu"))  # type: ignore[call-arg]


def lora(model: Any, **changed: Any) -> Any:
    return fit("npo", model=model, parameters="lora", max_steps=2, learning_rate=1e-2, **changed)


def test_a_missing_package_is_named_with_its_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "installed", lambda _: None)
    with pytest.raises(ConfigError, match=r"model.quantization=nf4 needs the package bitsandbytes.*expunge\[quant\]"):
        quantised(folder, "nf4")


def test_a_checkpoint_that_is_quantised_already_is_not_quantised_again(tmp_path: Path) -> None:
    import json

    source = zoo.save("llama", tmp_path)
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"stored quantised \(int8\), so it cannot be quantised to nf4"):
        quantised(source, "nf4")


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (None, None),
        ({"load_in_8bit": True, "quant_method": "bitsandbytes"}, "int8"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}, "nf4"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "nf4-single"),
        ({"load_in_4bit": True}, "fp4-single"),
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
    ],
)
def test_names_of_quantisations(config: Any, name: str | None) -> None:
    assert quantization_name(config) == name


def made_for(quantization: str | None) -> Fingerprint:
    return Fingerprint("c", "t", "w", "source", "float32", quantization)


def test_a_weight_erasure_holds_for_one_quantisation() -> None:
    for same in (None, "int8", "nf4"):
        check_same_quantization(made_for(same), made_for(same))
    with pytest.raises(ErasureError, match=r"quantised to nf4 and was given the model without quantisation.*=nf4\)"):
        check_same_quantization(made_for("nf4"), made_for(None))
    with pytest.raises(ErasureError, match=r"without quantisation and was given .* quantised to int8.*=none\)"):
        check_same_quantization(made_for(None), made_for("int8"))
    with pytest.raises(ErasureError, match=r"Load the model quantised to gptq, or fit a new erasure"):
        check_same_quantization(made_for("gptq"), made_for(None))


def test_applying_and_merging_look_at_the_quantisation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = zoo.model("llama")
    adapter, change = lora(model), fit("npo", model=model, max_steps=1)
    for erasure in (adapter, change):
        target = erasure.manifest.target
        changed = Fingerprint(**{**target.as_dict(), "quantization": "nf4"})
        erasure.manifest = erasure.manifest.model_copy(update={"target": changed})
        before = snapshot(model)
        with pytest.raises(ErasureError, match="fitted on the model quantised to nf4"), erasure.applied(model):
            pass
        assert snapshot(model) == before
        with pytest.raises(ErasureError, match=r"cannot be merged into a checkpoint.*model.quantization=nf4"):
            check_mergeable(erasure)
    adapter.save(tmp_path / "erasure")
    monkeypatch.setattr("expunge.models.loading.load_model", lambda *_, **__: pytest.fail("loaded for nothing"))
    with pytest.raises(ErasureError, match=r"PeftModel.from_pretrained\(model, '.*erasure'\)"):
        export(tmp_path / "erasure", tmp_path / "out", model=str(tmp_path))
    assert not (tmp_path / "out").exists()


def test_layers_packed_for_inference_are_not_trained_on() -> None:
    model: Any = nn.Module()
    model.layer = nn.Linear(2, 2)
    model.layer.support_avx512bf16_for_cpu = True
    check_differentiable(model)
    assert not model.layer.support_avx512bf16_for_cpu  # so that no forward packs it
    model.layer.weight.quant_state = SimpleNamespace(packing_format_for_cpu=True)
    with pytest.raises(ModelError, match=r"1 of the model's 4-bit layers \(layer.weight, ..\) were packed"):
        check_differentiable(model)
    keep_differentiable(zoo.model("llama"))


@needs_bitsandbytes
@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("bits", BITS)
def test_the_same_model_in_fewer_bits(bits: str, family: str, tmp_path: Path) -> None:
    source = zoo.save(family, tmp_path)
    tokenizer, full, rounded = load_tokenizer(source), load_model(source), quantised(source, bits)
    one, other = fingerprint(full, tokenizer), fingerprint(rounded, tokenizer)
    assert one.differences(other) == []
    assert (one.quantization, other.quantization) == (None, bits)
    assert (other.dtype, other.basis) == ("float32", "source")
    difference = float((logits(full) - logits(rounded)).abs().max())
    assert 0 < difference < 0.3
    assert rounded.get_memory_footprint() < full.get_memory_footprint()


@needs_bitsandbytes
@pytest.mark.parametrize("bits", BITS)
def test_an_adapter_on_a_quantised_model(bits: str, folder: Path, tmp_path: Path) -> None:
    model = quantised(folder, bits)
    modules = [name for name, module in model.named_modules() if type(module).__name__.startswith("Linear")]
    modules.remove("lm_head")
    plain, digest = logits(model), base_digest(model, modules)
    erasure = lora(model)
    assert torch.equal(logits(model), plain)
    assert base_digest(model, modules) == digest  # no forward has rewritten what is stored
    assert erasure.manifest.target.quantization == bits
    erasure.save(tmp_path / "erasure")
    loaded, again = Erasure.load(tmp_path / "erasure"), quantised(folder, bits)
    with erasure.applied(model), loaded.applied(again):
        assert torch.equal(logits(again), logits(model))
        assert not torch.allclose(logits(model), plain, atol=1e-3)
    assert torch.equal(logits(again), plain)
    others = [load_model(folder), quantised(folder, "nf4" if bits == "int8" else "int8")]
    for other in others:
        with pytest.raises(ErasureError, match=f"fitted on the model quantised to {bits}"), loaded.applied(other):
            pass
    with pytest.raises(ErasureError, match="cannot be merged into a checkpoint"):
        export(tmp_path / "erasure", tmp_path / "out", model=str(folder))
    on_full = lora(load_model(folder))
    message = f"without quantisation and was given the model quantised to {bits}"
    with pytest.raises(ErasureError, match=message), on_full.applied(model):
        pass


@needs_bitsandbytes
def test_the_weights_themselves_are_not_trained(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"Set training.parameters=lora"):
        fit("npo", model=quantised(folder, "nf4"))


@needs_bitsandbytes
@pytest.mark.parametrize(("bits", "tolerance"), [("nf4", 1e-4), ("int8", 0.05)])
def test_gradients_are_those_of_the_rounded_weights(bits: str, tolerance: float, folder: Path) -> None:
    """Scoring comes first: on some processors it would leave layers that gradients do not flow through."""
    from peft import get_peft_model

    from expunge.erasures.adapter import lora_config
    from expunge.training.parameters import lora_values

    rounded, dense = quantised(folder, bits), load_model(folder)
    logits(rounded)
    for name, module in dense.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            module.weight.data.copy_(_dequantised(rounded.get_submodule(name)))
    ids = torch.arange(5, 45).reshape(2, 20)
    grads = []
    for model in (rounded, dense):
        torch.manual_seed(0)
        adapted: Any = get_peft_model(model, lora_config(lora_values(model, settings(parameters="lora"))))
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.02)
        adapted(input_ids=ids, labels=ids).loss.backward()
        grads.append({name: p.grad for name, p in adapted.named_parameters() if p.requires_grad})
    assert grads[0].keys() == grads[1].keys()
    for name, expected in grads[1].items():
        assert torch.linalg.vector_norm(grads[0][name] - expected) <= tolerance * torch.linalg.vector_norm(expected)


def _dequantised(module: Any) -> torch.Tensor:
    import bitsandbytes

    weight = module.weight
    if weight.dtype == torch.int8:
        # the scale is each row's largest value, at 127
        scale = module.state.SCB if weight.SCB is None else weight.SCB
        return weight.data * scale[:, None] / 127
    found: torch.Tensor = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
    return found
