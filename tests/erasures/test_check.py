"""Protects against keeping an erasure that does other things on disk than it did in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import zoo
from expunge.erasures.check import check_saved
from expunge.errors import ErasureError
from expunge.methods.interface import Erasure
from fitting import fit, snapshot


@pytest.mark.parametrize("parameters", ["full", "lora"])
def test_the_same_passes_and_another_is_an_error(tmp_path: Path, parameters: str) -> None:
    model, tokenizer = zoo.model("llama"), zoo.tokenizer("llama")
    fitted = fit("npo", model=model, parameters=parameters, max_steps=2, learning_rate=1e-2)
    fitted.save(tmp_path / "erasure")
    saved = Erasure.load(tmp_path / "erasure")
    before = snapshot(model)
    check_saved(fitted, saved, model, tokenizer)
    name = next(name for name in fitted.tensors if "down_proj" in name)
    fitted.tensors[name] = fitted.tensors[name] + torch.ones_like(fitted.tensors[name])
    with pytest.raises(ErasureError, match="other logits than the one that training made"):
        check_saved(fitted, saved, model, tokenizer)
    assert snapshot(model) == before
