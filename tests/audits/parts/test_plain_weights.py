"""Protects exchanged weights: which are matrices of layers, that every bit comes back, and adapters added in."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import zoo
from expunge.audits.interface import Audited
from expunge.audits.parts.plain_weights import exchanged, inputs_first, matrices, with_plain_weights
from expunge.errors import ModelError
from expunge.methods.registry import make_method
from expunge.requests import Request, Row
from expunge.training.fit import fit_weights
from expunge.training.run import Run
from expunge.training.settings import TrainingSettings
from fitting import snapshot

ROWS = tuple(Row(f"What about {i}?", "The name of the author.") for i in range(4))


def test_layers_matrices_and_nothing_else() -> None:
    llama = matrices(zoo.model("llama"))
    kinds = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert len(llama) == 2 * len(kinds) and all(any(kind in name for kind in kinds) for name in llama)
    gpt2 = zoo.model("gpt2")
    assert {name.split(".", 3)[3] for name in matrices(gpt2)} == {
        "attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight",
    }  # fmt: skip
    assert all(inputs_first(gpt2, name) for name in matrices(gpt2))
    assert not any(inputs_first(zoo.model("llama"), name) for name in llama)
    assert any(one.ndim == 3 for one in matrices(zoo.model("mixtral")).values())


def test_experts_that_are_held_inputs_first_are_known() -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4}
    more = {"num_local_experts": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 50, "pad_token_id": 0}
    for kind, own, first in (
        ("gpt_oss", {}, True),  # its experts say so
        ("llama4_text", {"intermediate_size_mlp": 96}, True),  # these do not: (4, 64, 192) and (4, 96, 64)
        ("granitemoe", {}, False),
    ):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **more, **own))
        experts = {name: one for name, one in matrices(model).items() if one.ndim > 2}
        shapes = {name.rpartition(".")[2]: tuple(one.shape[1:]) for name, one in experts.items()}
        # gate and up make 2 * 96 of 64, down 64 of 96
        wanted = {"gate_up_proj": (192, 64), "down_proj": (64, 96)}
        assert shapes == {name: shape[::-1] if first else shape for name, shape in wanted.items()}, kind
        assert [inputs_first(model, name) for name in experts] == [first, first], kind
        assert not inputs_first(model, next(name for name in matrices(model) if "q_proj" in name))
    for family in ("mixtral", "qwen2_moe", "deepseek"):
        model = zoo.model(family)
        assert not any(inputs_first(model, name) for name in matrices(model)), family


def test_offloaded_weights_are_named() -> None:
    model = zoo.model("llama")
    model.model.layers[1].mlp.up_proj.to("meta")
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj\.weight is offloaded\. Load"):
        matrices(model)


def test_every_bit_comes_back_after_an_exception() -> None:
    model = zoo.model("llama")
    before, weight = snapshot(model), model.model.layers[0].mlp.up_proj.weight
    place = weight.data_ptr()
    values = {"model.layers.0.mlp.up_proj.weight": torch.full_like(weight, 3.0)}
    with pytest.raises(RuntimeError, match="on the way"), exchanged(model, values):
        assert bool((weight == 3).all())
        weight.data.add_(1)  # what is inside is not what comes back
        raise RuntimeError("on the way")
    assert snapshot(model) == before and weight.data_ptr() == place


def test_an_adapter_is_added_into_the_weights() -> None:
    target, tokenizer = zoo.model("llama"), zoo.tokenizer("llama")
    settings = TrainingSettings(parameters="lora", learning_rate=0.05, max_steps=3, forget_batch=4, accumulation=1)  # type: ignore[call-arg]
    adapter = fit_weights(
        make_method("grad_ascent"), target, tokenizer, forget=ROWS, retain=(), run=Run(settings=settings)
    )
    audited = Audited(target, tokenizer, Request(ROWS), erasure=adapter)
    ids, before, names = torch.tensor([[5, 6, 7]]), snapshot(target), [name for name, _ in target.named_parameters()]
    plain = target(ids).logits.detach()
    with audited.model("erased") as model:
        expected = model(ids).logits
    with with_plain_weights(audited, "erased") as model:
        assert [name for name, _ in model.named_parameters()] == names  # no adapter is left
        torch.testing.assert_close(model(ids).logits, expected, rtol=1e-4, atol=1e-5)
        assert float((model(ids).logits.detach() - plain).abs().max()) > 1e-2
    with pytest.raises(RuntimeError), with_plain_weights(audited, "erased"):
        raise RuntimeError
    assert snapshot(target) == before
    with with_plain_weights(audited, "target") as model:
        assert torch.equal(model(ids).logits, plain)
