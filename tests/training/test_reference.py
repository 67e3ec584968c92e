"""Protects the reference: the target's own numbers, computed once, without dropout and without a second model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import zoo
from expunge.data.batches import pad_id
from expunge.data.encode import encode_all
from expunge.data.template import Template
from expunge.training.reference import sequence_logprobs
from fitting import REQUEST, fit


def test_each_row_by_hand_in_the_order_given() -> None:
    model, tokenizer = zoo.model("llama"), zoo.tokenizer("llama")
    examples = encode_all(tokenizer, Template.of(tokenizer), REQUEST.forget, max_length=64)
    seen: list[tuple[int, int, str]] = []
    found = sequence_logprobs(model, examples, pad_id(tokenizer), rows=4, progress=lambda *args: seen.append(args))
    for value, example in zip(found, examples, strict=True):
        ids = torch.tensor([example.input_ids])
        with torch.no_grad():
            logps = model(ids).logits[0].log_softmax(-1)
        # Token t is predicted at position t - 1; the sum runs over answer tokens, the end token included.
        by_hand = sum(logps[t - 1, example.input_ids[t]] for t in range(example.answer_start, len(example.input_ids)))
        assert value.item() == pytest.approx(float(by_hand), abs=1e-4)
    assert seen == [(1, 2, "reference"), (2, 2, "reference")]  # 6 rows, 4 at a time


def test_dropout_takes_no_part_and_training_mode_is_left_as_it_was() -> None:
    model, tokenizer = zoo.model("gpt2", resid_pdrop=0.5, embd_pdrop=0.5), zoo.tokenizer("gpt2")
    examples = encode_all(tokenizer, Template.of(tokenizer), REQUEST.forget, max_length=64)

    def reference() -> torch.Tensor:
        return sequence_logprobs(model, examples, pad_id(tokenizer), rows=8, progress=lambda *_: None)

    quiet = reference()
    model.train()
    model.transformer.h[0].eval()
    modes = [module.training for module in model.modules()]
    assert torch.equal(reference(), quiet)
    assert [module.training for module in model.modules()] == modes


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
    # 6 forget rows, 2 a forward: 3 reference forwards, however many epochs; 3 epochs of 3 training forwards.
    assert calls == {"train": 9, "eval": 3, "models": 0}


def test_a_method_without_a_reference_computes_none() -> None:
    model = zoo.model("llama")
    modes: list[str] = []
    model.register_forward_pre_hook(lambda module, _: modes.append(_mode(module)))
    fit("grad_diff", model=model, max_steps=2)
    assert modes == ["train"] * 2


def _mode(module: torch.nn.Module) -> str:
    return "train" if module.training else "eval"
