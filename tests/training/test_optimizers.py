"""Protects optimizers by name: unknown, missing and impossible ones are refused at the check, 8-bit ones train."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from expunge import extras
from expunge.errors import ConfigError
from expunge.training import optimizers
from expunge.training.optimizers import check_optimizer, own_overrides, state_size
from fitting import StoppedError, fit, same_tensors, settings, stop_at

NAMES = [str(name.value) for name in __import__("transformers").training_args.OptimizerNames]


def check(name: str, device: str = "cpu") -> None:
    check_optimizer(settings(optimizer=name), device)


@pytest.mark.parametrize("name", ["adamw_torch", "adamw_torch_fused", "sgd", "adafactor", "adagrad", "rmsprop"])
def test_what_needs_no_package_passes(name: str) -> None:
    check(name)


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"training.optimizer='adamw_bnb_8bits'.*Did you mean 'adamw_bnb_8bit'"):
        check("adamw_bnb_8bits")


def test_no_optimizer_is_suggested_that_would_be_refused() -> None:
    with pytest.raises(ConfigError, match="no such optimizer") as caught:
        check("foo")
    assert "adafactor" in str(caught.value)
    assert not any(refused in str(caught.value) for refused in ("lomo", "galore", "apollo"))


def versions(monkeypatch: pytest.MonkeyPatch, **found: str | None) -> None:
    def version(package: str) -> str:
        if package in found:
            value = found[package]
            if value is None:
                raise metadata.PackageNotFoundError(package)
            return value
        return "1.0"

    monkeypatch.setattr(extras.metadata, "version", version)


@pytest.mark.parametrize(("name", "package"), [("adamw_bnb_8bit", "bitsandbytes"), ("adamw_torch_4bit", "torchao")])
def test_a_missing_or_old_package_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    versions(monkeypatch, **{package: None})
    with pytest.raises(ConfigError, match=rf"{name} needs the package {package}.*'expunge\[quant\]'"):
        check(name)
    versions(monkeypatch, **{package: "0.4.9.post1"})
    with pytest.raises(ConfigError, match=rf"{name} needs {package} 0\.\d+.* or later, and 0.4.9.post1 is installed"):
        check(name)


def test_versions_are_compared_as_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    # "0.9" would come after "0.46" as text
    versions(monkeypatch, bitsandbytes="0.9")
    with pytest.raises(ConfigError, match="or later"):
        check("adamw_bnb_8bit")


def test_paged_states_need_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch)
    with pytest.raises(ConfigError, match=r"on cpu. Set training.optimizer=adamw_bnb_8bit"):
        check("paged_adamw_8bit")
    with pytest.raises(ConfigError, match=r"Set training.optimizer=lion_8bit"):
        check("paged_lion_8bit")


def test_a_package_that_cannot_step_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch)
    monkeypatch.setattr(optimizers, "_try_bitsandbytes", lambda *_: "RuntimeError: no kernel")
    with pytest.raises(ConfigError, match=r"cannot take a step on cpu \(RuntimeError: no kernel\)"):
        check("lion_8bit")


def test_torchao_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch)
    monkeypatch.setattr(optimizers.shutil, "which", lambda _: None)
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler on cpu"):
        check("adamw_torch_8bit")


@pytest.mark.parametrize("name", ["galore_adamw", "apollo_adamw_layerwise", "lomo", "adalomo"])
def test_what_the_loop_cannot_drive_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"training.optimizer={name} cannot be used"):
        check(name)


def test_other_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="needs the package torch-optimi, which is not installed"):
        check("stable_adamw")


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_transformers_has_a_size_and_an_answer(name: str) -> None:
    assert 0 <= state_size(name).value <= state_size(name).embedding <= 12
    try:
        check(name)
    except ConfigError as error:
        assert name in str(error)


@pytest.mark.parametrize("name", ["adamw_bnb_8bit", "lion_8bit", "ademamix_8bit", "rmsprop_bnb_8bit"])
def test_bitsandbytes_trains_repeats_and_resumes_on_a_cpu(name: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    check(name)
    whole = fit(optimizer=name)
    assert same_tensors(whole, fit(optimizer=name))
    with pytest.raises(StoppedError):
        fit(optimizer=name, folder=tmp_path, progress=stop_at(4), checkpoint_every=2)
    assert same_tensors(whole, fit(optimizer=name, folder=tmp_path, checkpoint_every=2))


def test_bitsandbytes_states_are_as_large_as_counted() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    for name, kind, bits in (("adamw_bnb_8bit", "AdamW", 8), ("lion_8bit", "Lion", 8), ("ademamix", "AdEMAMix", 32)):
        parameter = torch.nn.Parameter(torch.zeros(256, 1024))
        parameter.grad = torch.ones_like(parameter)
        optimizer: Any = getattr(bitsandbytes.optim, kind)([parameter], optim_bits=bits)
        with own_overrides(name):
            optimizer.step()
        values = [
            v for key, v in optimizer.state[parameter].items() if isinstance(v, torch.Tensor) and "qmap" not in key
        ]
        size = sum(v.numel() * v.element_size() for v in values)
        assert size / parameter.numel() == pytest.approx(state_size(name).value, abs=0.02)


def test_bitsandbytes_list_of_embeddings_is_put_back() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    manager = bitsandbytes.optim.GlobalOptimManager.get_instance()
    manager.initialize()
    mine = (torch.nn.Embedding(2, 2), "weight", {"optim_bits": 32})
    manager.module_weight_config_triple.append(mine)
    try:
        with pytest.raises(RuntimeError, match="inside"), own_overrides("adamw_bnb_8bit"):
            assert manager.module_weight_config_triple == []
            manager.register_module_override(zoo.model("llama").get_input_embeddings(), "weight", {"optim_bits": 32})
            manager.index2config[0, 0] = {"optim_bits": 32}
            raise RuntimeError("inside")
        assert manager.module_weight_config_triple == [mine]
        assert manager.index2config == {}
    finally:
        manager.initialize()
    with own_overrides("sgd"):  # needs no package
        pass


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw_torch_8bit", "adamw_torch_4bit"])
def test_torchao_trains_and_resumes_on_a_cpu(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    check(name)
    whole = fit(optimizer=name)
    with pytest.raises(StoppedError):
        fit(optimizer=name, folder=tmp_path, progress=stop_at(4), checkpoint_every=2)
    assert same_tensors(whole, fit(optimizer=name, folder=tmp_path, checkpoint_every=2))
