"""Protects the reference: the target's own numbers, computed once, kept for others, never those of another model."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

import zoo
from expunge.data.batches import pad_id
from expunge.data.encode import Example, encode_all
from expunge.data.template import Template
from expunge.errors import CacheError, ConfigError, ModelError
from expunge.models.anatomy import decoder_layers
from expunge.training.references import LOGPS, STATES, ReferenceStore, fill
from fitting import REQUEST, fit, same_tensors

FACTS = {"weights": "abc", "dtype": "torch.float32"}


def examples_of(family: str) -> list[Example]:
    tokenizer = zoo.tokenizer(family)
    return encode_all(tokenizer, Template.of(tokenizer), REQUEST.forget, max_length=64)


def filled(model: Any, family: str, kinds: set[str], folder: Path | None = None, **given: Any) -> ReferenceStore:
    store = ReferenceStore(FACTS, folder)
    values: dict[str, Any] = {"pad_id": pad_id(zoo.tokenizer(family)), "most_tokens": 5, "progress": lambda *_: None}
    fill(store, model, examples_of(family), kinds, **{**values, **given})
    return store


@torch.no_grad()
def test_each_row_by_hand() -> None:
    model = zoo.model("llama")
    layers = [module for _, module in decoder_layers(model)]
    store = filled(model, "llama", {LOGPS, STATES, "layer-0"}, layers=layers)
    for example in examples_of("llama"):
        ids, start = torch.tensor([example.input_ids]), example.answer_start
        output = model(ids, output_hidden_states=True)
        logps = output.logits[0].log_softmax(-1)
        # Token t is predicted at position t - 1; the sum runs over answer tokens, the end token included.
        by_hand = sum(logps[t - 1, example.input_ids[t]] for t in range(start, len(example.input_ids)))
        assert store.get(LOGPS, example).item() == pytest.approx(float(by_hand), abs=1e-4)
        torch.testing.assert_close(store.get(STATES, example), output.hidden_states[-1][0, start - 1 : -1])
        torch.testing.assert_close(store.get("layer-0", example), output.hidden_states[1][0])


def test_dropout_takes_no_part_and_training_mode_is_left_as_it_was() -> None:
    model = zoo.model("gpt2", resid_pdrop=0.5, embd_pdrop=0.5)

    def reference() -> torch.Tensor:
        store = filled(model, "gpt2", {LOGPS})
        return torch.stack([store.get(LOGPS, example) for example in examples_of("gpt2")])

    quiet = reference()
    model.train()
    model.transformer.h[0].eval()
    modes = [module.training for module in model.modules()]
    assert torch.equal(reference(), quiet)
    assert [module.training for module in model.modules()] == modes


def test_another_run_reads_what_is_there_and_computes_what_is_not(tmp_path: Path) -> None:
    model, forwards = zoo.model("llama"), []
    model.model.layers[0].register_forward_pre_hook(lambda *_: forwards.append(1))
    first = filled(model, "llama", {LOGPS, STATES}, tmp_path)
    done = len(forwards)
    again = filled(model, "llama", {LOGPS, STATES}, tmp_path)
    assert len(forwards) == done
    for kind in (LOGPS, STATES):
        for example in examples_of("llama"):
            assert torch.equal(again.get(kind, example), first.get(kind, example))
    more = replace(examples_of("llama")[0], input_ids=[5, 6, 7, 8])
    assert again.missing(LOGPS, [more, more, examples_of("llama")[0]]) == [more]
    filled(model, "llama", {LOGPS, "layer-1"}, tmp_path, layers=[module for _, module in decoder_layers(model)])
    assert len(forwards) == 2 * done  # the new kind alone


def test_other_facts_have_a_place_of_their_own_and_a_strange_or_damaged_cache_is_refused(tmp_path: Path) -> None:
    filled(zoo.model("llama"), "llama", {LOGPS}, tmp_path)
    ReferenceStore({**FACTS, "weights": "other"}, tmp_path)
    first, second = sorted(tmp_path.iterdir())
    for one, other in ((first, second), (second, first)):
        kept = (one / "facts.json").read_text()
        (one / "facts.json").write_text((other / "facts.json").read_text())
        weights = json.loads(kept)["weights"]
        with pytest.raises(CacheError, match=r"another model: weights is '\w+', this run's is"):
            ReferenceStore({**FACTS, "weights": weights}, tmp_path)
        (one / "facts.json").write_text(kept)
    (file,) = tmp_path.glob("*/logps-*.safetensors")
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(bytes(damaged))
    with pytest.raises(CacheError, match="damaged"):
        ReferenceStore(FACTS, tmp_path).missing(LOGPS, examples_of("llama"))


def test_methods_and_seeds_share_a_cache_and_a_changed_model_has_its_own(tmp_path: Path) -> None:
    model = zoo.model("llama")
    fits: list[tuple[str, dict[str, Any], int]] = [("npo", {}, 0), ("npo", {"beta": 0.5}, 1), ("kl_min", {}, 0)]
    for name, values, seed in fits:
        fit(name, values, model=model, max_steps=1, seed=seed, reference_cache=str(tmp_path))
    assert len(list(tmp_path.iterdir())) == 1
    assert len(list(tmp_path.glob("*/logps-*.safetensors"))) == 1  # npo's second seed found all forget rows there
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
    fit("npo", model=model, max_steps=1, reference_cache=str(tmp_path))
    assert len(list(tmp_path.iterdir())) == 2


def test_adapters_share_the_cache_of_the_model_they_sit_on(tmp_path: Path) -> None:
    model = zoo.model("llama")
    for given in ({}, {"parameters": "lora"}, {"parameters": "lora", "seed": 1, "lora_rank": 4}):
        fit("npo", model=model, max_steps=1, reference_cache=str(tmp_path), **given)
    assert len(list(tmp_path.glob("*/logps-*.safetensors"))) == 1  # a fresh adapter adds nothing to the target


@pytest.mark.parametrize(
    "edit", [lambda p: p["model.layers.0.mlp.down_proj.weight"][:, 5], lambda p: p["lm_head.weight"][11]]
)
def test_an_edit_of_one_column_or_row_is_another_model(edit: Any, tmp_path: Path) -> None:
    folder, cache = zoo.save("llama", tmp_path / "target"), tmp_path / "cache"
    model = LlamaForCausalLM.from_pretrained(folder)  # known by its files, which an edit in memory leaves as they are
    fit("npo", model=model, max_steps=1, reference_cache=str(cache))
    with torch.no_grad():
        edit(dict(model.named_parameters())).add_(1.0)
    fit("npo", model=model, max_steps=1, reference_cache=str(cache))
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("npo", "lora"),
        ("kl_min", "full"),
        pytest.param("npo", "full", marks=pytest.mark.slow),
        pytest.param("kl_min", "lora", marks=pytest.mark.slow),
        pytest.param("undial", "full", marks=pytest.mark.slow),
        pytest.param("undial", "lora", marks=pytest.mark.slow),
    ],
)
def test_every_way_to_the_reference_gives_the_same_erasure(name: str, parameters: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"parameters": parameters, "max_steps": 3, "learning_rate": 1e-2}
    cached = fit(name, **given)
    ways = ["resident"] + ["adapter"] * (parameters == "lora")
    for way in ways:
        other = fit(name, reference=way, **given)
        for tensor, value in cached.tensors.items():
            torch.testing.assert_close(other.tensors[tensor], value, atol=2e-5, rtol=1e-4, msg=f"{way} {tensor}")
    kept = fit(name, reference_cache=str(tmp_path), **given)
    read = fit(name, reference_cache=str(tmp_path), **given)
    assert same_tensors(kept, read)


class GatedLlama(LlamaForCausalLM):
    """Has a trained parameter of its own between body and head."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.gate = torch.nn.Parameter(torch.ones(config.hidden_size))

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **_: Any) -> CausalLMOutput:
        states = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        return CausalLMOutput(logits=self.lm_head(states * self.gate))


@pytest.mark.parametrize("reference", ["cached", "resident"])
def test_what_is_trained_beside_the_head_cannot_speak_for_the_target(reference: str) -> None:
    model = GatedLlama(zoo.model("llama").config)
    with pytest.raises(ModelError, match="gate: trained"):
        fit("undial", model=model, max_steps=1, reference=reference)
    fit("undial", model=model, max_steps=1, reference=reference, layers=("model.*", "lm_head.*"))
    fit("npo", model=model, max_steps=1, reference=reference)  # reads no distributions


def test_an_adapters_off_switch_needs_an_adapter() -> None:
    with pytest.raises(ConfigError, match=r"training\.reference=adapter"):
        fit("npo", reference="adapter", max_steps=1)


def test_a_fit_computes_it_once_and_makes_no_second_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.model("llama")
    calls = {"train": 0, "eval": 0, "models": 0}
    model.register_forward_pre_hook(lambda module, _: calls.update({m: calls[m] + 1 for m in [_mode(module)]}))
    made = PreTrainedModel.__init__

    def count(self: Any, *args: Any, **kwargs: Any) -> None:
        calls["models"] += 1
        made(self, *args, **kwargs)

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a model was copied")

    monkeypatch.setattr(PreTrainedModel, "__init__", count)
    monkeypatch.setattr(type(model), "__deepcopy__", refuse, raising=False)
    with pytest.raises(AssertionError):
        copy.deepcopy(model)
    fit("npo", model=model, epochs=3)
    # one reference forward (and one over its states, a part of the logits each), however many epochs; 3 epochs of 3
    # training forwards, in which the head runs inside.
    assert calls["eval"] == 2
    assert calls["train"] == 9
    assert calls["models"] == 0


def test_a_method_without_a_reference_computes_none() -> None:
    model = zoo.model("llama")
    modes: list[str] = []
    model.register_forward_pre_hook(lambda module, _: modes.append(_mode(module)))
    fit("grad_diff", model=model, max_steps=2)
    assert modes == ["train"] * 2


def _mode(module: torch.nn.Module) -> str:
    return "train" if module.training else "eval"
