"""Protects weight changes: exactly the new values inside, exactly the old bits after, and no model but their own."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from expunge.erasures.weight_change import WeightChange, changed_tensors
from expunge.errors import ErasureError, TrainingError
from expunge.methods.interface import Erasure
from expunge.models.loading import load_model
from fitting import fit, logits, snapshot

FAMILIES = ("llama", "gpt2", "gemma2", "opt", "mixtral")  # gpt2, gemma2 and opt tie their heads


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_applied_is_exact_and_leaves_no_trace(tmp_path: Path, family: str, dtype: str) -> None:
    model = zoo.model(family).to(getattr(torch, dtype))
    before, plain = snapshot(model), logits(model)
    fitted = fit("grad_ascent", model=model, family=family, max_steps=2)
    fitted.save(tmp_path / "e")
    loaded: Any = Erasure.load(tmp_path / "e")
    assert isinstance(loaded, WeightChange)

    by_hand = zoo.model(family).to(getattr(torch, dtype))
    by_hand.load_state_dict(fitted.tensors, strict=False)
    expected = logits(by_hand)
    for erasure in (fitted, loaded):
        with pytest.raises(RuntimeError, match="inside"), erasure.applied(model) as erased:
            assert erased is model
            assert torch.equal(logits(erased), expected)
            assert not torch.equal(expected, plain)
            raise RuntimeError("inside")
        assert snapshot(model) == before
        assert torch.equal(logits(model), plain)


def test_only_changed_tensors_are_stored(tmp_path: Path) -> None:
    erasure = fit("npo", layers=("*.layers.1.*",), max_steps=1)
    erasure.save(tmp_path / "e")
    stored = set(Erasure.load(tmp_path / "e").tensors)  # type: ignore[attr-defined]
    assert stored
    assert all(".layers.1." in name for name in stored)


def test_a_tied_tensor_is_stored_once() -> None:
    erasure = fit("npo", family="gpt2", max_steps=1)
    assert "transformer.wte.weight" in erasure.tensors
    assert "lm_head.weight" not in erasure.tensors
    model: Any = zoo.model("gpt2")
    with erasure.applied(model):
        assert model.lm_head.weight is model.transformer.wte.weight
        assert torch.equal(model.lm_head.weight, erasure.tensors["transformer.wte.weight"])


def test_changed_tensors_by_hand() -> None:
    # "kept" does not move. "moved" moves by 1/4 in one of its two elements: representable in bfloat16, nothing lost.
    # "lost" moves 256 by 0.5, where bfloat16 steps are 2: rounds back, so it counts as unchanged.
    before = {name: torch.tensor([1.0, 256.0], dtype=torch.bfloat16) for name in ("kept", "moved", "lost")}
    after = {
        "kept": torch.tensor([1.0, 256.0]),
        "moved": torch.tensor([1.25, 256.0]),
        "lost": torch.tensor([1.0, 256.5]),
    }
    tensors, details = changed_tensors(before, after)
    assert {name: (value.dtype, value.tolist()) for name, value in tensors.items()} == {
        "moved": (torch.bfloat16, [1.25, 256.0])
    }
    assert (details["tensors_changed"], details["tensors_trained"]) == (1, 3)
    assert (details["elements_changed"], details["elements_trained"]) == (1, 6)
    assert details["update_norm"] == pytest.approx((0.25**2 + 0.5**2) ** 0.5)
    assert details["rounding_norm"] == pytest.approx(0.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zoo.save("llama", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def erasure(folder: Path) -> Any:
    """Made for the model in ``folder``, whose fingerprint is that of its files."""
    made = fit("npo", model=load_model(folder), max_steps=1)
    assert made.manifest.target.basis == "source"
    return made


def test_the_same_files_in_another_precision_are_the_same_model(erasure: Any, folder: Path) -> None:
    from expunge.config.run_file import ModelSpec

    model = load_model(ModelSpec(path=str(folder), dtype="bfloat16"))  # type: ignore[call-arg]
    before = snapshot(model)
    with erasure.applied(model):
        name, value = next(iter(erasure.tensors.items()))
        assert torch.equal(dict(model.named_parameters())[name], value.to(torch.bfloat16))
    assert snapshot(model) == before


def test_memory_and_files_of_the_same_model_are_the_same_model(erasure: Any, folder: Path) -> None:
    with erasure.applied(zoo.model("llama")):
        pass
    made_in_memory = fit("npo", max_steps=1)
    with made_in_memory.applied(load_model(folder)):
        pass


def refused(erasure: Any, model: Any, message: str) -> None:
    before = snapshot(model)
    with pytest.raises(ErasureError, match=message), erasure.applied(model):
        pass
    assert snapshot(model) == before


def test_other_models_are_refused(erasure: Any, tmp_path: Path) -> None:
    other = load_model(zoo.save("llama", tmp_path / "other", seed=1))
    refused(erasure, other, r"made for another model: weights differ.*Apply it to the model it was made for")
    refused(erasure, zoo.model("llama", seed=1), "made for other weights")
    refused(fit("npo", max_steps=1), zoo.model("llama", seed=1), "made for another model: weights differ")
    refused(erasure, zoo.model("llama", rope_theta=5e5), "config")
    refused(erasure, zoo.model("llama", intermediate_size=64), "has shape")
    refused(erasure, zoo.model("gpt2"), r"is not in the model.*and \d+ more")


def test_a_model_changed_after_loading_is_refused(erasure: Any, folder: Path) -> None:
    model = load_model(folder)
    with torch.no_grad():
        model.get_parameter("model.layers.1.mlp.up_proj.weight")[0, 0] += 1e-3
    refused(erasure, model, "changed after loading")


def test_offloaded_and_quantised_weights_are_refused(erasure: Any) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    for weight, message in (
        (torch.empty(128, 64, device="meta"), f"{name} is offloaded"),
        (torch.zeros(128, 64, dtype=torch.int8), f"{name} is quantised"),
    ):
        model: Any = zoo.model("llama")
        model.model.layers[1].mlp.up_proj.weight = torch.nn.Parameter(weight, requires_grad=False)
        with pytest.raises(ErasureError, match=message), erasure.applied(model):
            pass


def test_applying_twice_is_refused_and_lifts_only_what_was_applied(erasure: Any, folder: Path) -> None:
    model = load_model(folder)
    before = snapshot(model)
    with erasure.applied(model):
        inside = snapshot(model)
        refused(erasure, model, "already erased")
        assert snapshot(model) == inside
    assert snapshot(model) == before


def test_erasures_of_different_layers_compose_in_any_order(folder: Path) -> None:
    model = load_model(folder)
    before = snapshot(model)
    first, second = (fit("npo", model=model, layers=(f"*.layers.{i}.*",), max_steps=1) for i in (0, 1))
    with first.applied(model), second.applied(model):
        both = logits(model)
    with second.applied(model), first.applied(model):
        assert torch.equal(logits(model), both)
    assert snapshot(model) == before


def test_erasures_that_share_tensors_do_not_compose(erasure: Any, folder: Path) -> None:
    model = load_model(folder)
    before = snapshot(model)
    overlapping = fit("npo", {"beta": 0.5}, model=model, layers=("*.layers.1.*",), max_steps=1)
    with ExitStack() as stack:
        stack.enter_context(erasure.applied(model))
        with pytest.raises(ErasureError, match="made for other weights"):
            stack.enter_context(overlapping.applied(model))
    assert snapshot(model) == before


def test_an_error_while_applying_restores_what_was_written(erasure: Any, folder: Path) -> None:
    model = load_model(folder)
    before = snapshot(model)
    broken = WeightChange(erasure.manifest, dict(erasure.tensors))
    name = list(broken.tensors)[-1]

    broken.tensors[name] = broken.tensors[name].to("meta")  # copying from it fails, after the others were copied
    with pytest.raises((RuntimeError, NotImplementedError)), broken.applied(model):
        pass
    assert snapshot(model) == before


def test_training_that_moves_nothing_is_an_error() -> None:
    # 1e-12 is far below the spacing of bfloat16 numbers (2**-8 of a value), so rounding takes the whole update.
    with pytest.raises(TrainingError, match=r"changed no weight in 1 optimizer step\. Rounding to bfloat16"):
        fit("npo", model=zoo.model("llama").to(torch.bfloat16), max_steps=1, learning_rate=1e-12)
