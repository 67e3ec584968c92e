"""Protects that a fit leaves the model exactly as it was, trains what it was told to, and refuses what cannot work."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import zoo
from expunge.erasures.adapter import Adapter
from expunge.errors import ModelError, RequestError, TrainingError
from expunge.methods.weights.finetune import Finetune
from expunge.methods.weights.pdu import PDU
from expunge.requests import Request, Row
from expunge.training.fit import check_weights, fit_weights
from expunge.training.run import Run
from fitting import REQUEST, StoppedError, fit, logits, rows, same_tensors, settings, snapshot, stop_at

WAYS: dict[str, dict[str, Any]] = {
    "full": {},
    "layers": {"layers": ("*.1.*",)},
    "lora": {"parameters": "lora"},
    "checkpointing": {"gradient_checkpointing": True},
    "lora-checkpointing": {"parameters": "lora", "gradient_checkpointing": True},
    "autocast": {"dtype": "bfloat16"},
    "lora-autocast": {"parameters": "lora", "dtype": "bfloat16"},
}


@pytest.mark.parametrize("narrow", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("way", WAYS)
def test_the_model_is_left_as_it_was_also_after_an_exception(way: str, narrow: bool) -> None:
    model = zoo.model("gpt2" if narrow else "llama")  # gpt2 ties its head
    model = model.to(torch.bfloat16) if narrow else model
    model.train()
    model.get_submodule("lm_head").eval()
    model.get_input_embeddings().weight.requires_grad_(False)
    if not narrow:
        model.get_output_embeddings().weight.grad = torch.ones_like(model.get_output_embeddings().weight)
    before = snapshot(model)
    fit("npo", model=model, family="gpt2" if narrow else "llama", max_steps=1, score_every_steps=1, **WAYS[way])
    assert snapshot(model) == before
    with pytest.raises(StoppedError):
        fit("npo", model=model, family="gpt2" if narrow else "llama", progress=stop_at(1), **WAYS[way])
    assert snapshot(model) == before


def test_a_users_own_gradient_checkpointing_stays_on() -> None:
    model = zoo.model("llama")
    model.gradient_checkpointing_enable()
    before = snapshot(model)
    fit("npo", model=model, parameters="lora", gradient_checkpointing=True, max_steps=1)
    assert snapshot(model) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_patterns_train_only_what_they_name(dtype: torch.dtype) -> None:
    erasure = fit("npo", model=zoo.model("llama").to(dtype), layers=("*.layers.1.mlp.*",))
    assert set(erasure.tensors) == {f"model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up", "down")}
    assert erasure.details["tensors_trained"] == erasure.details["tensors_changed"] == 3
    # 3 matrices of 64 x 128
    assert erasure.details["elements_trained"] == 3 * 64 * 128


def test_lora_trains_an_adapter_and_nothing_else() -> None:
    model = zoo.model("llama")
    plain = logits(model)
    erasure = fit("npo", model=model, parameters="lora", lora_rank=2, layers=("*.mlp.down_proj",), learning_rate=1e-2)
    assert isinstance(erasure, Adapter)
    # A and B on the down projection (128 -> 64) of each of 2 layers.
    assert sorted(tuple(t.shape) for t in erasure.tensors.values()) == [(2, 128), (2, 128), (64, 2), (64, 2)]
    assert torch.equal(logits(model), plain)
    with erasure.applied(model):
        assert not torch.allclose(logits(model), plain, atol=1e-4)


def test_a_bfloat16_target_is_trained_in_float32_and_rounded_once() -> None:
    # Training from the same values in a float32 model and rounding its result gives the same bits.
    narrow = zoo.model("llama").to(torch.bfloat16)
    wide = zoo.model("llama").to(torch.bfloat16).to(torch.float32)
    rounded, exact = fit("npo", model=narrow, learning_rate=2e-5), fit("npo", model=wide, learning_rate=2e-5)
    weights = dict(narrow.named_parameters())
    for name, tensor in exact.tensors.items():
        expected = tensor.to(torch.bfloat16)
        assert torch.equal(rounded.tensors.get(name, weights[name]), expected)
    # Updates of 2e-5 are mostly below half a bfloat16 step of weights near 0.02 (6e-5): adding them one by one in
    # bfloat16 would lose nearly all; adding up first keeps some.
    assert 0 < rounded.details["elements_changed"] < exact.details["elements_changed"]
    assert rounded.details["rounding_norm"] > 0 == exact.details["rounding_norm"]


def test_the_same_settings_give_the_same_erasure_and_another_seed_another() -> None:
    model = zoo.model("llama")
    for changed in ({}, {"parameters": "lora", "lora_dropout": 0.1}):
        first = fit("npo", model=model, max_steps=2, **changed)
        torch.rand(5)  # whatever else used the global generator
        assert same_tensors(fit("npo", model=model, max_steps=2, **changed), first)
        assert not same_tensors(fit("npo", model=model, max_steps=2, seed=1, **changed), first)


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fit("npo", max_steps=1, checkpoint_every=1)
    assert list(tmp_path.iterdir()) == []


def test_no_checkpoint_holds_more_than_what_is_trained(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    fit("npo", folder=tmp_path, checkpoint_every=3, layers=("*.layers.1.*",))
    (found,) = tmp_path.glob("checkpoints/*/checkpoint-6/trained.safetensors")
    assert all(".layers.1." in name for name in load_file(found))
    assert not any(tmp_path.rglob("model*.safetensors"))


def test_missing_rows_are_named() -> None:
    with pytest.raises(RequestError, match=r"npo reads retain rows, and there are none.*method.alpha=0"):
        fit("npo", request=Request(forget=REQUEST.forget))
    fit("npo", {"alpha": 0.0}, request=Request(forget=REQUEST.forget), max_steps=1)
    with pytest.raises(RequestError, match="there are no retain rows to train on"):
        fit_weights(
            Finetune(), zoo.model("llama"), zoo.tokenizer("llama"), forget=REQUEST.forget, retain=(), lead="retain"
        )


def test_retain_rows_that_no_loss_reads_change_nothing() -> None:
    few = fit("npo", {"alpha": 0.0}, max_steps=2)
    assert same_tensors(fit("npo", {"alpha": 0.0}, request=Request(forget=REQUEST.forget), max_steps=2), few)


def test_a_quantised_target_needs_an_adapter() -> None:
    model = zoo.model("llama")
    model.config.quantization_config = SimpleNamespace(quant_method="any")
    with pytest.raises(ModelError, match=r"training\.parameters=lora"):
        fit("npo", model=model)


def test_a_model_that_carries_an_adapter_is_refused() -> None:
    model = zoo.model("llama")
    adapter = fit("npo", model=model, parameters="lora", max_steps=1)
    for changed in ({}, {"parameters": "lora"}):
        with adapter.applied(model), pytest.raises(ModelError, match="carries a PEFT adapter"):
            fit("npo", model=model, **changed)


def test_few_steps_and_cut_rows_are_said(caplog: pytest.LogCaptureFixture) -> None:
    long = Request(forget=(Row("Who?", "It was " + "by the river " * 60), *rows(3, "forget")))
    with caplog.at_level(logging.WARNING, "expunge"):
        fit("grad_ascent", request=long, epochs=1, max_length=64, learning_rate=1e-5)
    text = caplog.text
    assert "2 optimizer steps at learning rate 1e-05 change a weight by about 2e-05 at most" in text
    assert "1 of 4 rows are longer than 64 tokens (training.max_length, or what the model takes)" in text


@pytest.mark.parametrize(
    ("changed", "warned"),
    [
        # steps x rate against 1e-4, and 1e-3 for an adapter
        ({"max_steps": 1, "learning_rate": 2e-4}, False),
        ({"max_steps": 4, "learning_rate": 2e-5}, True),
        ({"max_steps": 4, "learning_rate": 2e-4, "parameters": "lora"}, True),
        ({"max_steps": 6, "learning_rate": 2e-4, "parameters": "lora"}, False),
    ],
)
def test_a_run_is_called_short_by_its_steps_times_its_rate(
    changed: dict[str, Any], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "expunge"):
        fit("grad_ascent", request=Request(forget=REQUEST.forget), **changed)
    assert ("hardly move" in caplog.text) is warned


@pytest.mark.parametrize("parameters", ["full", "lora"])
def test_a_rate_that_moves_nothing_is_an_error(parameters: str) -> None:
    model = zoo.model("gpt2")  # has biases of 0, which any rate changes
    with pytest.raises(TrainingError, match=r"changed no weight by more than \S+e-\d+ of .* in 6 optimizer steps\."):
        fit("npo", model=model, family="gpt2", parameters=parameters, learning_rate=1e-30)


def test_warnings_about_the_plan_are_given_once_and_not_by_the_check(caplog: pytest.LogCaptureFixture) -> None:
    method, run = PDU(eps=1.0), Run(settings())
    words = (zoo.model("llama"), zoo.tokenizer("llama"))
    said = "pdu: method.warmup_epochs=5 and 2 epochs are planned, so the dual variable stays at 50 in every step"
    method.check(*words, REQUEST, run=run)
    assert said not in caplog.text
    check_weights(method, *words, forget=REQUEST.forget, retain=REQUEST.retain, run=run)  # what a plan asks
    assert caplog.text.count(said) == 1
    method.fit(*words, REQUEST, run=run)
    assert caplog.text.count(said) == 2


def test_a_rounded_away_update_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "expunge"):
        fit("npo", model=zoo.model("llama").to(torch.bfloat16), learning_rate=1e-6)
    assert "rounding to bfloat16 loses" in caplog.text


def test_plain_training_passes_its_rows_once_an_epoch(tmp_path: Path) -> None:
    seen: list[int] = []
    run = Run(settings(epochs=2, retain_batch=3, accumulation=1), tmp_path, progress=lambda done, *_: seen.append(done))
    change = fit_weights(
        Finetune(),
        zoo.model("llama"),
        zoo.tokenizer("llama"),
        forget=(),
        retain=rows(9, "data"),
        run=run,
        lead="retain",
    )
    assert seen == [1, 2, 3, 4, 5, 6]  # 9 rows, 3 a step, twice
    assert change.details["tensors_changed"] == change.details["tensors_trained"]


def test_the_manifest_says_what_was_done() -> None:
    manifest = fit("npo", {"beta": 0.3}, max_steps=1, seed=4).manifest
    assert (manifest.kind, manifest.format, manifest.method) == ("weights", "weight_change", "npo")
    assert manifest.parameters == {"beta": 0.3, "alpha": 1.0, "retain": "nll"}
    assert (manifest.training["seed"], manifest.training["max_steps"]) == (4, 1)
    assert (manifest.target.basis, manifest.target.dtype) == ("memory", "float32")
