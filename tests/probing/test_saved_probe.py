"""Protects saved probes: the same numbers come back, and a damaged probe or one of another model does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import zoo
from expunge.errors import CacheError
from expunge.probing.probe import Probe
from expunge.probing.result import ProbeResult
from fitting import rows

ROWS = rows(4, "forget")


@pytest.fixture
def model() -> Any:
    return zoo.model("mixtral")


def saved(model: Any, folder: Path) -> ProbeResult:
    probe = Probe(["mlp_key", "residual", "model.norm:output"], extremes=True, pooling="mean", part="prompt")
    result = probe.run(model, zoo.tokenizer("mixtral"), ROWS)
    result.save(folder)
    return result


def test_what_is_saved_comes_back(model: Any, tmp_path: Path) -> None:
    result = saved(model, tmp_path / "probe")
    assert sorted(file.name for file in (tmp_path / "probe").iterdir()) == ["probe.json", "statistics.safetensors"]
    for found in (
        ProbeResult.load(tmp_path / "probe"),
        ProbeResult.load(tmp_path / "probe", model, zoo.tokenizer("mixtral")),
    ):
        assert (found.sites, found.scope, found.target, found.values) == (
            result.sites,
            result.scope,
            result.target,
            result.values,
        )
        for site in result.sites:
            assert found.of(site).kept == ("mean", "squares", "magnitude", "minimum", "maximum")
            assert found.count(site) == result.count(site)
            for name in found.of(site).kept:
                assert torch.equal(getattr(found.of(site), name), getattr(result.of(site), name))
    plain = Probe("residual").run(model, zoo.tokenizer("mixtral"), ROWS)
    plain.save(tmp_path / "probe")  # replaced whole
    again = ProbeResult.load(tmp_path / "probe")
    assert again.sites == plain.sites
    assert again.of(again.sites[0]).kept == ("mean", "squares", "magnitude")


def test_a_damaged_probe_is_refused(model: Any, tmp_path: Path) -> None:
    folder = tmp_path / "probe"
    saved(model, folder)
    tensors, facts = folder / "statistics.safetensors", folder / "probe.json"
    whole, text = tensors.read_bytes(), facts.read_text()

    def refused(match: str) -> None:
        with pytest.raises(CacheError, match=match):
            ProbeResult.load(folder)
        tensors.write_bytes(whole)
        facts.write_text(text)

    tensors.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused("statistics.safetensors is not the file that was saved")
    tensors.unlink()
    refused("statistics.safetensors is missing")
    facts.write_text(text.replace('"part": "prompt"', '"part": "answer"'))
    refused("is not what was saved: its content and its own sha256 differ")
    facts.write_text(text[:-40])
    refused("probe.json is damaged")
    facts.write_text("[]")
    refused("probe.json is damaged")
    facts.write_text(json.dumps({**json.loads(text), "schema": 2}))
    refused("has schema 2, this version of expunge reads schema 1")
    facts.unlink()
    refused("holds no probe: there is no probe.json")
    ProbeResult.load(folder)


def test_a_probe_of_another_model_is_refused(model: Any, tmp_path: Path) -> None:
    tokenizer = zoo.tokenizer("mixtral")
    saved(model, tmp_path / "probe")
    with pytest.raises(CacheError, match="a probe of another model: weights differ"):
        ProbeResult.load(tmp_path / "probe", zoo.model("mixtral", seed=1), tokenizer)
    with pytest.raises(CacheError, match="a probe of another model: config and weights differ"):
        ProbeResult.load(tmp_path / "probe", zoo.model("mixtral", num_hidden_layers=3))
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    with pytest.raises(CacheError, match="a probe of another model: tokenizer differ"):
        ProbeResult.load(tmp_path / "probe", model, tokenizer)


def test_the_same_model_from_files_in_other_precision_or_changed(tmp_path: Path) -> None:
    folder = zoo.save("llama", tmp_path / "model")
    tokenizer = zoo.tokenizer("llama")
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    Probe("residual").run(loaded, tokenizer, ROWS).save(tmp_path / "from_files")
    Probe("residual").run(zoo.model("llama"), tokenizer, ROWS).save(tmp_path / "from_memory")
    # one set of weights, known by the digest of its files or of its values
    ProbeResult.load(tmp_path / "from_memory", loaded, tokenizer)
    ProbeResult.load(tmp_path / "from_files", zoo.model("llama"), tokenizer)
    narrow = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    ProbeResult.load(tmp_path / "from_files", narrow, tokenizer)
    with torch.no_grad():
        loaded.model.layers[0].mlp.up_proj.weight[3, 5] += 1
    with pytest.raises(CacheError, match="the same model with other weights in memory"):
        ProbeResult.load(tmp_path / "from_files", loaded, tokenizer)
