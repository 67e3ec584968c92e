"""Protects activation methods in other precisions: fitted and applied in bfloat16, 8 and 4 bits, and across them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from expunge.config.run_file import ModelSpec
from expunge.models.loading import load_model
from fitting import fit, logits

METHODS: dict[str, dict[str, Any]] = {
    "neuron_adjust": {"k": 20},
    "selective_pruning": {"k": 20, "neurons": "both"},
    "key_space_detection": {"scale": 1e6, "keys": "all"},  # so large that it holds every key
}
PRECISIONS = ["bfloat16", "int8", "nf4"]


def loaded(folder: Path, precision: str) -> Any:
    if precision in ("int8", "nf4"):
        if importlib.util.find_spec("bitsandbytes") is None:
            pytest.skip("bitsandbytes is not installed")
        spec: dict[str, Any] = {"quantization": precision}
    else:
        spec = {"dtype": precision}
    return load_model(ModelSpec(path=str(folder), device="cpu", **spec))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zoo.save("llama", tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("method", METHODS)
def test_fitted_and_applied(method: str, precision: str, folder: Path) -> None:
    model = loaded(folder, precision)
    plain = logits(model)
    erasure = fit(method, METHODS[method], model=model)
    with erasure.applied(model):
        erased = logits(model)
        assert torch.isfinite(erased).all()
        assert not torch.equal(erased, plain)
        if method == "key_space_detection":  # uniform from the first token on
            assert torch.equal(erased, torch.zeros_like(erased))
    assert torch.equal(logits(model), plain)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_made_on_the_whole_model_and_applied_to_a_narrow_one(
    precision: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    erasure = fit("selective_pruning", METHODS["selective_pruning"], model=loaded(folder, "float32"))
    model = loaded(folder, precision)
    plain = logits(model)
    with erasure.applied(model):
        assert not torch.equal(logits(model), plain)
    assert "was made on the model in float32 and is applied to it in" in caplog.text
    assert torch.equal(logits(model), plain)
