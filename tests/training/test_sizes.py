"""Protects the sizes an estimate is made of: parameters as the real model has them, forwards as the loop runs them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import zoo
from expunge.data.encode import Example
from expunge.methods.registry import make_method
from expunge.training.machine import free_host_bytes, measured_flops, resident_bytes, this_machine
from expunge.training.rows import Rows
from expunge.training.sizes import RunSizes, hollow_model
from fitting import settings


def example(length: int, answer: int) -> Example:
    return Example(list(range(length)), length - answer, True, length)


FORGET = [example(10 + i, 4) for i in range(4)]
RETAIN = [example(20 + i, 6) for i in range(6)]


def sizes(family: str = "llama", method: str = "npo", values: dict[str, Any] | None = None, **shape: Any) -> RunSizes:
    made: Any = make_method(method, values or {})
    compares = "alternative" in made.sides(0)
    rows = Rows(FORGET, RETAIN, [[e] for e in FORGET] if compares else [])
    return RunSizes(hollow_model(zoo.model(family, **shape).config), made, rows)


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_a_hollow_model_has_the_parameters_of_the_real_one(family: str) -> None:
    real = zoo.model(family)
    hollow = hollow_model(real.config)
    assert [(n, p.shape) for n, p in hollow.named_parameters()] == [(n, p.shape) for n, p in real.named_parameters()]
    assert sum(p.untyped_storage().nbytes() for p in hollow.parameters()) <= 8 * len(list(hollow.parameters()))
    found = sizes(family).shape(settings())
    assert found.parameters == found.trained == sum(p.numel() for p in real.parameters())
    assert found.head == sum(p.numel() for p in real.get_output_embeddings().parameters())
    assert (found.layers, found.deepest, found.hidden) == (2, 0, 64)
    assert found.outside >= found.head


def test_a_tied_head_counts_once() -> None:
    tied, untied = (sizes(tie_word_embeddings=tie).shape(settings()) for tie in (True, False))
    assert untied.parameters - tied.parameters == tied.head == tied.trained_embedding
    # layers 0 and below are reached by the gradient of a tied head's other end, the embedding
    assert tied.trains_head
    upper = settings(layers=("lm_head.weight",))
    assert sizes(tie_word_embeddings=False).shape(upper).deepest == 2


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "phi3", "mixtral"])
def test_an_adapter_is_counted_as_peft_makes_it(family: str) -> None:
    from peft import get_peft_model

    from expunge.erasures.adapter import lora_config
    from expunge.training.parameters import lora_values

    chosen = settings(parameters="lora", lora_rank=3)
    model: Any = zoo.model(family)
    adapted = get_peft_model(model, lora_config(lora_values(model, chosen)))
    real = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    found = sizes(family).shape(chosen)
    assert found.trained == real
    assert not found.trains_head


def test_a_llama_by_hand() -> None:
    # hidden 64, four heads of 16, two of keys, MLP of 128, two layers
    found = sizes().shape(settings())
    layer = 64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 128
    assert found.linear == found.products == 2 * layer
    assert (found.attention, found.key_value) == (64, 32)
    assert found.mlp == 4 * 128  # gate, its activation, the other half, the product
    assert sizes("gpt2").shape(settings()).mlp == 2 * 128  # one projection and its activation


def test_a_token_meets_some_experts_alone() -> None:
    found = sizes("mixtral").shape(settings())
    experts = 2 * 4 * 3 * 64 * 128  # two layers, four experts of three matrices
    assert found.products == found.linear + experts // 2  # two of four
    assert found.mlp == 2 * 4 * 128


def test_layers_and_methods_choose_what_is_trained() -> None:
    found = sizes().shape(settings(layers=("*.layers.1.mlp.*",)))
    assert found.trained == 3 * 64 * 128
    assert (found.deepest, found.trains_head, found.trained_embedding) == (1, False, 0)
    lora = sizes().shape(settings(parameters="lora", layers=("*.layers.1.*",)))
    assert lora.deepest == 1
    assert sizes().last_layers() == ("model.layers.1.*",)


def test_a_method_that_reads_a_layer_runs_no_further() -> None:
    found = sizes(method="rmu", values={"layer": 0})
    shape, work = found.shape(settings()), found.work(settings())
    assert (shape.layers, shape.head, shape.trains_head, work.most_answers) == (1, 0, False, 0)
    assert 2 * shape.products == shape.linear
    assert work.reference_states == sum(len(e.input_ids) for e in RETAIN[:6])  # of all tokens of the rows drawn


def test_forwards_are_those_of_the_schedule() -> None:
    # two epochs of four rows, two and two a forward: four forwards, two a step
    found = sizes().work(settings(epochs=2, accumulation=2))
    assert (found.steps, found.forwards, found.step_forwards) == (4 // 2, 4, 2)
    assert found.rows == {"forget": 4, "retain": 6}
    assert found.tokens == {"forget": 10 + 11 + 12 + 13, "retain": 20 + 21 + 22 + 23 + 24 + 25}
    assert found.answer_tokens == {"forget": 16, "retain": 36}
    assert found.longest == 25
    assert found.forward_answers == 4 * (2 * 4 + 2 * 6)
    assert found.most_answers == 20
    # every forward is padded to its longest retain row, of at most 25 tokens
    assert found.most_tokens == 4 * 25
    assert found.most_squares == 4 * 25**2
    packed = sizes().work(settings(epochs=2, accumulation=2, packing=True))
    assert packed.most_tokens <= 12 + 13 + 25 + 25  # a row may come last in one pass and first in the next
    assert packed.forward_tokens < found.forward_tokens


def test_references_are_asked_for_what_the_loss_reads() -> None:
    npo, plain = sizes().work(settings()), sizes(method="grad_diff").work(settings())
    assert (npo.reference_tokens, npo.reference_answers, npo.reference_states) == (46, 16, 0)
    assert (plain.reference_tokens, plain.reference_states) == (0, 0)
    kl = sizes(values={"retain": "kl"}).work(settings(epochs=4))
    assert (kl.reference_tokens, kl.reference_states) == (46 + 135, 36)
    dpo = sizes(method="dpo").work(settings())
    assert dpo.rows["alternative"] == 4
    assert dpo.reference_tokens == 2 * 46


def test_generation_keeps_keys_and_values_of_a_batch() -> None:
    # ten prompts of at most 19 tokens and 5 new ones: 2 x 2 layers x 32 x 24 x 4 bytes a row; two rows of logits
    found = sizes().work(settings(max_new_tokens=5))
    assert found.generation == 10 * (2 * 2 * 32 * 24 * 4 + 2 * 4 * sizes().shape(settings()).vocabulary)


def test_this_machine() -> None:
    found = this_machine("cpu", settings())
    assert found.device == "cpu"
    assert 10**8 < found.memory == found.host < 10**14
    assert 10**7 < resident_bytes() == pytest.approx(found.program, rel=0.5)
    assert measured_flops("cpu", torch.float32) > 1e8
    assert free_host_bytes() > 0
    assert not found.autocast
    assert this_machine("cpu", settings(dtype="bfloat16")).autocast
