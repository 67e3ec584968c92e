"""Protects loading: whole models in the asked-for precision, and one plain error for everything else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import logging

import zoo
from expunge.config.run_file import ModelSpec
from expunge.errors import ModelError
from expunge.models.loading import check_folder, fastest_attention, load_model, load_tokenizer, resolve
from expunge.worlds.interface import get_world


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zoo.save("llama", tmp_path_factory.mktemp("loading") / "model")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy of the model's folder that a test may damage."""
    return Path(shutil.copytree(original, tmp_path / "model"))


@pytest.fixture(autouse=True)
def quiet() -> Any:
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(before)


def spec(folder: Path, **values: Any) -> ModelSpec:
    return ModelSpec(path=str(folder), **values)


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_folder_loads_in_evaluation_mode(folder: Path) -> None:
    model, wanted = load_model(folder), zoo.model("llama")
    assert not model.training
    tensors = model.state_dict()
    assert all(torch.equal(tensors[name].cpu().float(), value) for name, value in wanted.state_dict().items())
    assert len(load_tokenizer(str(folder))) == len(zoo.tokenizer("llama"))


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_every_family_loads_whole(family: str, tmp_path: Path) -> None:
    zoo.save(family, tmp_path)
    assert load_model(spec(tmp_path, device="cpu")).num_parameters() == zoo.model(family).num_parameters()
    assert len(load_tokenizer(tmp_path)) == len(zoo.tokenizer(family))


def test_precision(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_model(spec(folder, device="cpu")).dtype == torch.float32
    assert load_model(spec(folder, device="cpu", dtype="bfloat16")).dtype == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert load_model(spec(folder)).dtype == torch.float32
    assert load_model(spec(folder, device_map="cpu")).dtype == torch.float32
    assert load_model(spec(folder, device_map="auto")).dtype == torch.float32


@pytest.mark.gpu
def test_on_a_gpu(folder: Path) -> None:
    model = load_model(folder)
    assert (model.device.type, model.dtype) == ("cuda", torch.bfloat16)


def test_no_folder(tmp_path: Path) -> None:
    for load in (load_model, load_tokenizer):
        with pytest.raises(ModelError, match=r"there is no folder '.*none' for the retrained model"):
            load(tmp_path / "none", role="retrained")  # type: ignore[operator]
        with pytest.raises(ModelError, match="path is empty"):
            load("")  # type: ignore[operator]


def test_a_file_where_a_folder_is_wanted(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"config.json' is a file. Pass the folder that holds config.json"):
        load_model(folder / "config.json")


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config.json and no weights \(model.safetensors\)"):
        load_model(tmp_path)


def test_no_configuration(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config.json\. "):
        load_model(folder)


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    for load in (load_model, load_tokenizer):
        with pytest.raises(ModelError, match=r"has no weights \(model.safetensors\)\. "):
            load(folder)  # type: ignore[operator]


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_no_tokenizer(family: str, tmp_path: Path) -> None:
    # For half of the families transformers gives an empty tokenizer here, without a word.
    zoo.model(family).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"(?s)has no tokenizer.*Save it into the same folder"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_s_settings_without_its_vocabulary(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="files hold no vocabulary"):
        load_tokenizer(folder)


def test_a_tokenizer_of_a_larger_model(folder: Path) -> None:
    edit(folder / "config.json", vocab_size=300)
    size = len(zoo.tokenizer("llama"))
    with pytest.raises(ModelError, match=rf"has {size} tokens and the model knows 300: they belong to different"):
        load_tokenizer(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_broken_json(folder: Path, name: str) -> None:
    text = (folder / name).read_text()
    (folder / name).write_text(text[:100])
    load: Any = load_model if name == "config.json" else load_tokenizer
    with pytest.raises(ModelError):
        load(folder)


@pytest.mark.parametrize("kept", [0, 80, -1])
def test_damaged_weights(folder: Path, kept: int) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"weights of the target model '.*' are damaged"):
        load_model(folder)


def test_a_missing_shard(tmp_path: Path) -> None:
    zoo.model("llama").save_pretrained(tmp_path, max_shard_size="100KB")
    lost = sorted(tmp_path.glob("model-*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(ModelError, match=lost.name):
        load_model(tmp_path)


def test_weights_that_would_be_random_are_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    whole = dict(tensors)
    del tensors["lm_head.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"not those of a whole LlamaForCausalLM.*lm_head.weight is missing\. "):
        load_model(folder)
    whole["lm_head.weight"] = whole["lm_head.weight"][:-1].contiguous()
    save_file(whole, weights, metadata={"format": "pt"})
    size = len(zoo.tokenizer("llama"))
    with pytest.raises(ModelError, match=rf"lm_head.weight is \({size - 1}, 64\), not \({size}, 64\)"):
        load_model(folder)


def test_a_model_of_another_kind(folder: Path) -> None:
    edit(folder / "config.json", model_type="t5")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(folder)
    edit(folder / "config.json", model_type="nothing_known")
    with pytest.raises(ModelError, match="nothing_known"):
        load_model(folder)


def test_a_pickle_of_tensors_loads_and_one_with_code_is_not_run(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    assert load_model(folder).num_parameters() == zoo.model("llama").num_parameters()

    marker = folder / "was_run"
    torch.save({**tensors, "code": _Touch(str(marker))}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickle that holds more than tensors"):
        load_model(folder)
    assert not marker.exists()


class _Touch:
    """Unpickled, this makes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.path),)


def test_code_from_a_model_folder_is_not_run_unless_asked_for(folder: Path) -> None:
    assert ModelSpec(path="x").trust_remote_code is False  # type: ignore[call-arg]
    marker = folder / "was_run"
    (folder / "own.py").write_text(
        f"from pathlib import Path\nPath({str(marker)!r}).touch()\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own_kind'\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    edit(
        folder / "config.json",
        model_type="own_kind",
        auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"},
    )
    with pytest.raises(ModelError, match="trust_remote_code"):
        load_model(folder)
    assert not marker.exists()
    assert type(load_model(spec(folder, trust_remote_code=True))).__name__ == "OwnModel"
    assert marker.exists()


def test_a_device_that_is_not_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("cuda", "cuda:1"):
        with pytest.raises(ModelError, match=rf"model.device={name}: this machine has no CUDA GPU"):
            load_model(spec(folder, device=name))
    with pytest.raises(ModelError, match=r"model.device='gpu' is no device of torch. Use cpu, cuda"):
        load_model(spec(folder, device="gpu"))


def test_an_attention_that_is_not_there(folder: Path) -> None:
    with pytest.raises(ModelError, match="nonsense"):
        load_model(spec(folder, attention="nonsense"))
    assert load_model(spec(folder, attention="eager")).config._attn_implementation == "eager"


def test_a_name_that_is_neither_a_folder_nor_in_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError("no connection")

    monkeypatch.chdir(tmp_path)
    for loader in ("AutoModelForCausalLM", "AutoTokenizer"):
        monkeypatch.setattr(f"transformers.{loader}.from_pretrained", refused)
    for load in (load_model, load_tokenizer):
        with pytest.raises(ModelError, match=r"no such folder, so it was taken for a hub id\): no connection"):
            load("own_model")  # type: ignore[operator]


def test_what_may_be_a_hub_id_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_folder("owner/name")
    (tmp_path / "runs").mkdir()
    for path in ("runs/target", "./target", "a/b/c", str(tmp_path / "x")):  # a path, since its folder is here
        with pytest.raises(ModelError, match="there is no folder"):
            check_folder(path)


@pytest.mark.parametrize(
    ("device", "dtype", "package", "expected"),
    [
        ("cuda", "bfloat16", True, "flash_attention_2"),
        ("cuda", "float32", True, None),  # it computes in half precision only
        ("cpu", "bfloat16", True, None),
        ("cuda", "bfloat16", False, None),
    ],
)
def test_flash_attention_is_taken_where_it_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str, dtype: str, package: bool, expected: str | None
) -> None:
    monkeypatch.setattr("transformers.utils.import_utils.is_flash_attn_2_available", lambda: package)
    zoo.model("llama").config.save_pretrained(tmp_path)
    spec = ModelSpec(path=str(tmp_path))  # type: ignore[call-arg]
    assert fastest_attention(str(tmp_path), spec, device, dtype) == expected


def test_a_world_is_its_target_unless_the_retrained_model_is_asked_for() -> None:
    """Who audits a world against itself would else read that its target is erased."""
    folder = get_world("authors").target_folder
    assert [resolve("world:authors", role=role) for role in ("target", "erased", "reference")] == [str(folder)] * 3
    assert resolve("world:authors", role="retrained") == str(folder.parent / "retrained")
