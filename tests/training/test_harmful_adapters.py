"""Protects the negation of LoRA adapters: what is taken away is what PEFT would merge, and nothing else passes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from expunge import negate
from expunge.errors import ModelError
from expunge.models.loading import load_model
from fitting import logits
from negating import lora, names, save, tensors

LINEAR = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn", "c_proj"]}


def edit(folder: Path, **values: Any) -> None:
    """Change an adapter's configuration."""
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize(
    "config",
    [
        {"r": 4, "lora_alpha": 6},
        {"r": 4, "lora_alpha": 6, "use_rslora": True},
        {
            "r": 4,
            "rank_pattern": {"layers.1.self_attn.q_proj": 2, "h.1.attn.c_attn": 2},
            "alpha_pattern": {"down_proj": 3, "c_proj": 3},
        },
    ],
)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_adapter_is_what_peft_merges(tmp_path: Path, family: str, config: dict[str, Any]) -> None:
    target = save(tmp_path / "target", family, shard="100KB")
    adapter, adapted = lora(target, tmp_path / "adapter", target_modules=LINEAR[family], **config)
    negate(target, adapter, out=tmp_path / "added", scale=-1)
    torch.testing.assert_close(logits(load_model(tmp_path / "added")), adapted, atol=2e-5, rtol=1e-4)
    merged: Any = get_peft_model(load_model(target), LoraConfig(r=1, target_modules=LINEAR[family])).unload()
    from peft import PeftModel

    merged = PeftModel.from_pretrained(merged, str(adapter)).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    negate(target, adapter, out=tmp_path / "lora", scale=0.5)
    negate(target, tmp_path / "merged", out=tmp_path / "full", scale=0.5)
    ours, theirs, before = tensors(tmp_path / "lora"), tensors(tmp_path / "full"), tensors(target)
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=1e-6, rtol=1e-5)
        if not any(f".{module}." in name for module in LINEAR[family]):
            assert torch.equal(tensor, before[name]), name
    changed = json.loads((tmp_path / "lora" / "negation.json").read_text())["changed"]
    assert len(changed) == {"llama": 4, "gpt2": 6}[family]


def test_an_adapter_by_hand(tmp_path: Path) -> None:
    # B A = [[1], [2]] [[1, 10]] = [[1, 10], [2, 20]], times alpha / r = 3: less one is taken from the first corner.
    target = save(tmp_path / "target")
    adapter, _ = lora(target, tmp_path / "adapter", r=1, lora_alpha=3, target_modules=["0.mlp.down_proj"])
    matrices = load_file(adapter / "adapter_model.safetensors")
    a, b = sorted(matrices)
    values = {name: torch.zeros_like(tensor) for name, tensor in matrices.items()}
    values[a][0, :2], values[b][:2, 0] = torch.tensor([1.0, 10.0]), torch.tensor([1.0, 2.0])
    save_file(values, adapter / "adapter_model.safetensors")
    negate(target, adapter, out=tmp_path / "out", scale=0.5)
    name = "model.layers.0.mlp.down_proj.weight"
    difference = tensors(target)[name] - tensors(tmp_path / "out")[name]
    torch.testing.assert_close(difference[:2, :2], torch.tensor([[1.5, 15.0], [3.0, 30.0]]), atol=1e-5, rtol=1e-5)
    assert int(difference.count_nonzero()) == 4


def test_an_adapter_on_an_embedding(tmp_path: Path) -> None:
    target = save(tmp_path / "target")
    adapter, adapted = lora(target, tmp_path / "adapter", r=2, target_modules=["embed_tokens", "v_proj"])
    file = adapter / "adapter_model.safetensors"  # PEFT adds the untied embedding and head themselves
    save_file({name: t for name, t in load_file(file).items() if "lora_" in name}, file)
    negate(target, adapter, out=tmp_path / "added", scale=-1)
    torch.testing.assert_close(logits(load_model(tmp_path / "added")), adapted, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"use_dora": True}, r"use_dora=True"),
        ({"bias": "all", "modules_to_save": ["lm_head"]}, r"bias='all', modules_to_save=\['lm_head'\]"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4'"),
        ({"some_later_variant": {"alpha": 1}}, "some_later_variant="),
        ({"peft_type": "IA3"}, "peft_type='IA3'"),
    ],
)
def test_more_than_plain_lora_is_refused(tmp_path: Path, values: dict[str, Any], says: str) -> None:
    target = save(tmp_path / "target")
    adapter, _ = lora(target, tmp_path / "adapter", target_modules=["q_proj"])
    edit(adapter, **values)
    with pytest.raises(ModelError, match=rf"is not plain LoRA \({says}.*merge_and_unload"):
        negate(target, adapter, out=tmp_path / "out")
    assert names(tmp_path) == ["adapter", "target"]


def test_every_part_of_an_adapter_that_does_not_fit_is_named(tmp_path: Path) -> None:
    target = save(tmp_path / "target")
    adapter, _ = lora(save(tmp_path / "big", intermediate_size=256), tmp_path / "adapter", target_modules=["down_proj"])
    file = adapter / "adapter_model.safetensors"
    matrices = load_file(file)
    first = "base_model.model.model.layers.0.mlp.down_proj"
    matrices["base_model.model.model.layers.7.mlp.up_proj.lora_A.weight"] = torch.ones(8, 64)
    matrices["base_model.model.model.layers.7.mlp.up_proj.lora_B.weight"] = torch.ones(128, 8)
    matrices["base_model.model.lm_head.weight"] = torch.ones(3, 3)
    del matrices[f"{first}.lora_B.weight"]
    save_file(matrices, file)
    with pytest.raises(ModelError) as error:
        negate(target, adapter, out=tmp_path / "out")
    for text in (
        "4 tensors do not match",
        "model.layers.0.mlp.down_proj has only one of its two LoRA matrices",
        "model.layers.1.mlp.down_proj.weight is (64, 256) in the harmful model, (64, 128) in the target",
        "model.layers.7.mlp.up_proj has no place in the target's files",
        "base_model.model.lm_head.weight is no LoRA matrix",
    ):
        assert text in str(error.value)
    edit(adapter, r=3)
    with pytest.raises(ModelError, match=r"not of rank 3 as adapter_config.json says"):
        negate(target, adapter, out=tmp_path / "out")
    edit(adapter, r=None, lora_alpha="x")
    with pytest.raises(ModelError, match=r"is damaged \(r=None, lora_alpha='x'\)"):
        negate(target, adapter, out=tmp_path / "out")
    file.unlink()
    edit(adapter, r=8, lora_alpha=8)
    with pytest.raises(ModelError, match=r"has no adapter_model.safetensors"):
        negate(target, adapter, out=tmp_path / "out")


def test_an_adapter_on_tied_weights_is_refused(tmp_path: Path) -> None:
    target = save(tmp_path / "target", "llama3")
    adapter, _ = lora(target, tmp_path / "adapter", target_modules=["embed_tokens"])
    with pytest.raises(ModelError, match=r"model.embed_tokens.weight is tied to another weight"):
        negate(target, adapter, out=tmp_path / "out")
