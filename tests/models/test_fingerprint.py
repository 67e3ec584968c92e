"""Protects a model's identity: the same in any precision and any sharding, another after one changed bit."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaTokenizer

import zoo
from expunge.models.fingerprint import (
    Fingerprint,
    fingerprint,
    memory_digest,
    source_files,
    tokenizer_digest,
    values_digest,
)
from expunge.models.loading import load_model, load_tokenizer


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zoo.save("llama3", tmp_path_factory.mktemp("fingerprint") / "model")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy of the model's folder that a test may change."""
    return Path(shutil.copytree(original, tmp_path / "model"))


def of(folder: Path, dtype: torch.dtype = torch.float32) -> Fingerprint:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return fingerprint(model, AutoTokenizer.from_pretrained(folder))


def flip(path: Path) -> None:
    """Flip the lowest bit of one weight."""
    data = bytearray(path.read_bytes())
    data[-4] ^= 1
    path.write_bytes(bytes(data))


def test_the_same_in_every_precision(folder: Path) -> None:
    single, half = of(folder), of(folder, torch.bfloat16)
    assert single.differences(half) == []
    assert (single.dtype, half.dtype) == ("float32", "bfloat16")
    assert single.basis == half.basis == "source"
    assert single.source == "model"
    assert {len(digest) for digest in (single.config, single.tokenizer, single.weights)} == {64}
    assert Fingerprint(**single.as_dict()) == single


@pytest.mark.parametrize("family", ["llama", "llama3"])  # untied and tied
def test_the_same_in_one_file_and_in_shards(family: str, tmp_path: Path) -> None:
    model = zoo.model(family)
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    zoo.tokenizer(family).save_pretrained(tmp_path / "whole")
    zoo.tokenizer(family).save_pretrained(tmp_path / "shards")
    assert len(source_files(str(tmp_path / "whole"))) == 1
    assert len(source_files(str(tmp_path / "shards"))) > 2
    assert of(tmp_path / "whole").differences(of(tmp_path / "shards")) == []


def test_the_same_in_another_folder_and_by_another_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = Path(shutil.copytree(folder, folder.parent / "elsewhere"))
    first, second = of(folder), of(moved)
    assert first.differences(second) == []
    assert second.source == "elsewhere"
    monkeypatch.chdir(folder.parent)
    assert first.differences(of(Path("model"))) == []


def test_the_order_of_tensors_in_the_file_makes_no_difference(folder: Path) -> None:
    before = of(folder)
    weights = folder / "model.safetensors"
    values = {name: value.tolist() for name, value in load_file(weights).items()}
    raw = weights.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    backwards: dict[str, Any] = {"__metadata__": {"format": "pt", "note": "another"}}
    blob = b""
    for name in sorted(values, reverse=True):
        begin, end = header[name]["data_offsets"]
        part = raw[8 + size + begin : 8 + size + end]
        backwards[name] = {**header[name], "data_offsets": [len(blob), len(blob) + len(part)]}
        blob += part
    written = json.dumps(backwards).encode()
    written += b" " * (-len(written) % 8)
    weights.write_bytes(len(written).to_bytes(8, "little") + written + blob)
    assert {name: value.tolist() for name, value in load_file(weights).items()} == values
    assert before.differences(of(folder)) == []


def test_one_flipped_bit_is_another_model_though_it_was_read_before(folder: Path) -> None:
    before = of(folder)
    weights = folder / "model.safetensors"
    times = weights.stat()
    flip(weights)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))  # as after copying with its dates
    assert weights.stat().st_size == times.st_size
    assert before.differences(of(folder)) == ["weights"]


def test_a_renamed_tensor_is_another_model(folder: Path) -> None:
    before = fingerprint(AutoModelForCausalLM.from_pretrained(folder), None)
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    first, second = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"
    tensors[first], tensors[second] = tensors[second], tensors[first]
    save_file(tensors, weights, metadata={"format": "pt"})
    assert before.differences(fingerprint(AutoModelForCausalLM.from_pretrained(folder), None)) == ["weights"]


def test_another_configuration_is_another_model(folder: Path) -> None:
    before = of(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    assert before.differences(of(folder)) == ["config"]


def test_what_says_nothing_about_the_function_is_left_out_of_the_configuration(folder: Path) -> None:
    before = of(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    changed = {**config, "dtype": "bfloat16", "transformers_version": "5.0.0", "use_cache": False, "_name_or_path": "x"}
    path.write_text(json.dumps(dict(reversed(changed.items()))))
    assert before.differences(of(folder)) == []


def test_another_chat_template_is_another_tokenizer(folder: Path) -> None:
    before = of(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template += " "
    after = fingerprint(AutoModelForCausalLM.from_pretrained(folder), tokenizer)
    assert before.differences(after) == ["tokenizer"]


def test_a_saved_and_loaded_tokenizer_is_the_same(tmp_path: Path) -> None:
    found = set()
    for family in zoo.FAMILIES:
        tokenizer = zoo.tokenizer(family)
        tokenizer.save_pretrained(tmp_path / family)
        found.add(tokenizer_digest(tokenizer))
        assert tokenizer_digest(AutoTokenizer.from_pretrained(tmp_path / family)) == tokenizer_digest(tokenizer)
        tokenizer(["a", "b c"], padding=tokenizer.pad_token is not None, truncation=True, max_length=4)  # has been used
        assert tokenizer_digest(tokenizer) in found
    # 25 families; Gemma's three, GPT-2's three, NeoX and MPT, Qwen 2's two are of one kind: 25 - 2 - 2 - 1 - 1 = 19.
    assert len(found) == 19


def test_what_decides_the_ids_beside_the_vocabulary() -> None:
    def llama(merges: list[Any], bos: bool) -> str:
        return tokenizer_digest(LlamaTokenizer(vocab=plain.get_vocab(), merges=merges, add_bos_token=bos))

    plain = zoo.tokenizer("llama")
    merges = [tuple(pair) for pair in json.loads(plain.backend_tokenizer.to_str())["model"]["merges"]]
    assert llama(merges, True) == tokenizer_digest(plain)
    assert llama(merges, False) != tokenizer_digest(plain)  # no BOS
    assert llama(merges[:40], True) != tokenizer_digest(plain)  # the same tokens, put together otherwise
    changed = zoo.tokenizer("gpt2")
    changed.add_special_tokens({"pad_token": "<pad>"})
    assert tokenizer_digest(changed) != tokenizer_digest(zoo.tokenizer("gpt2"))


def test_a_model_that_came_from_no_folder_is_known_by_its_memory() -> None:
    first, same, other = (fingerprint(zoo.model("llama", seed=seed), zoo.tokenizer("llama")) for seed in (0, 0, 1))
    assert first.basis == "memory"
    assert first.source == "LlamaForCausalLM"
    assert first.differences(same) == []
    assert first.differences(other) == ["weights"]
    wider = fingerprint(zoo.model("llama", intermediate_size=96), zoo.tokenizer("llama"))
    assert first.differences(wider) == ["config", "weights"]


def test_memory_notices_one_weight_and_not_where_it_lies() -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(2, dtype=torch.bfloat16)}
    digest = memory_digest(tensors)
    assert memory_digest(dict(reversed(tensors.items()))) == digest
    assert memory_digest({**tensors, "a": tensors["a"].t().contiguous().t()}) == digest  # strides are no values
    assert memory_digest({**tensors, "a": tensors["a"].reshape(3, 2)}) != digest
    changed = tensors["a"].clone()
    changed[1, 2] = torch.nextafter(changed[1, 2], torch.tensor(9.0))
    assert memory_digest({**tensors, "a": changed}) != digest
    assert memory_digest({**tensors, "b": torch.zeros(2, dtype=torch.float16)}) != digest  # 0.0, but of another kind


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("shape", [(128, 192), (3, 64, 40), (65, 67), (5,), ()])
def test_values_notice_any_one_weight(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    values = torch.arange(torch.Size(shape).numel()).remainder(101).to(dtype).reshape(shape)
    digest = values_digest([("w", values)])
    assert values_digest([("w", values.clone())]) == digest
    flat = values.reshape(-1)
    for place in {0, 1, len(flat) // 2, len(flat) - 1} & set(range(len(flat))):
        changed = flat.clone()
        changed[place] += 1
        assert values_digest([("w", changed.reshape(shape))]) != digest
    assert values_digest([("v", values)]) != digest
    if len(shape) == 2:
        assert values_digest([("w", values.t().contiguous().t())]) == digest  # strides are no values


def test_a_folder_with_a_pickle_is_known_by_its_memory(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert source_files(str(folder)) == []
    assert of(folder).basis == "memory"


def test_without_a_tokenizer_its_digest_is_what_the_caller_says() -> None:
    assert fingerprint(zoo.model("gpt2"), None).tokenizer == ""
    assert fingerprint(zoo.model("gpt2"), None, tokenizer_digest_as="abc").tokenizer == "abc"


def test_a_folder_whose_shard_is_missing_has_no_source(tmp_path: Path) -> None:
    zoo.model("llama").save_pretrained(tmp_path, max_shard_size="100KB")
    source_files(str(tmp_path))[1].unlink()
    assert source_files(str(tmp_path)) == []
    assert source_files("") == source_files(str(tmp_path / "none")) == []


def test_a_tied_head_may_be_stored_or_not(tmp_path: Path) -> None:
    zoo.save("gpt2", tmp_path / "once")
    shutil.copytree(tmp_path / "once", tmp_path / "twice")
    tensors = load_file(tmp_path / "once" / "model.safetensors")
    assert "lm_head.weight" not in tensors
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()
    save_file(tensors, tmp_path / "twice" / "model.safetensors", metadata={"format": "pt"})
    once, twice = (fingerprint(load_model(tmp_path / n), load_tokenizer(tmp_path / n)) for n in ("once", "twice"))
    assert once.differences(twice) == []


def test_an_old_way_of_writing_the_configuration_is_the_same_model(tmp_path: Path) -> None:
    zoo.save("llama", tmp_path / "new")
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    config["torch_dtype"] = config.pop("dtype")
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    new, old = (fingerprint(load_model(tmp_path / n), load_tokenizer(tmp_path / n)) for n in ("new", "old"))
    assert new.differences(old) == []


def test_a_hub_id_says_nothing_about_the_revision_that_was_loaded() -> None:
    # loaded by somebody else from somewhere: only the values in memory can tell
    model = zoo.model("llama")
    model.config._name_or_path = "owner/name"
    assert fingerprint(model, zoo.tokenizer("llama")).basis == "memory"


def test_the_file_that_transformers_loads_is_the_one_that_counts(tmp_path: Path) -> None:
    zoo.save("llama", tmp_path / "both")
    (tmp_path / "both" / "model.safetensors.index.json").write_text('{"weight_map": {"x": "other.safetensors"}}')
    assert source_files(tmp_path / "both") == [tmp_path / "both" / "model.safetensors"]
