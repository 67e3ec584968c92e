"""Protects concept vector ablation: only the chosen value vectors change, by seeded noise, named or found by words."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import zoo
from expunge.errors import ConfigError, ModelError, TrainingError
from expunge.methods.registry import make_method
from fitting import REQUEST, fit

NAME = "concept_vector_ablation"


def weight(model: Any, layer: int, family: str = "llama") -> torch.nn.Parameter:
    down = model.model.layers[layer].mlp.down_proj if family == "llama" else model.transformer.h[layer].mlp.c_proj
    found: torch.nn.Parameter = down.weight
    return found


@pytest.mark.parametrize(("family", "transposed"), [("llama", False), ("gpt2", True)])
def test_only_the_named_vectors_change_and_by_the_noise(family: str, transposed: bool) -> None:
    model = zoo.model(family)
    erasure = fit(NAME, {"layer": 1, "neurons": [70, 3], "noise": 0.5, "seed": 4}, model=model, family=family)
    ((name, after),) = erasure.tensors.items()
    before = weight(model, 1, family).detach()
    assert dict(model.named_parameters())[name] is weight(model, 1, family)
    assert tuple(before.shape) == ((128, 64) if transposed else (64, 128))
    change = (after - before).T if transposed else after - before
    # Drawn a vector at a time, in the order in which they were named.
    generator = torch.Generator().manual_seed(4)
    for neuron in (70, 3):
        torch.testing.assert_close(change[:, neuron], 0.5 * torch.randn(64, generator=generator), atol=1e-6, rtol=0)
    rest = [neuron for neuron in range(128) if neuron not in (3, 70)]
    assert not change[:, rest].any()
    assert erasure.details["elements_changed"] == 2 * 64
    assert [(one["layer"], one["neuron"]) for one in erasure.details["value_vectors"]] == [(1, 70), (1, 3)]
    # The norm of 128 draws of deviation 0.5 is 0.5 sqrt(128) = 5.66, give or take 6% (one standard deviation).
    assert erasure.details["update_norm"] == pytest.approx(5.66, rel=0.25)


def test_another_seed_is_other_noise() -> None:
    one, two = (fit(NAME, {"layer": 0, "neurons": [1], "seed": seed}) for seed in (0, 1))
    (first,), (second,) = one.tensors.values(), two.tensors.values()
    assert not torch.equal(first[:, 1], second[:, 1])


def planted(word: str) -> tuple[Any, list[int]]:
    """A tiny model whose neurons 5 of layer 0 and 9 of layer 1 write the word's own rows of the head, 9 with less of
    them than of noise."""
    model = zoo.model("llama")
    tokens = zoo.tokenizer("llama")(f" {word}", add_special_tokens=False)["input_ids"]
    direction = model.get_output_embeddings().weight[tokens].detach().mean(0)
    direction = direction / direction.norm()
    noise = torch.randn(64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        weight(model, 0)[:, 5] = direction
        weight(model, 1)[:, 9] = direction + noise / noise.norm()
    return model, tokens


def test_words_find_the_vector_that_writes_them() -> None:
    model, tokens = planted("town")
    erasure = fit(NAME, {"words": ["town"], "vectors": 2}, model=model)
    assert [(one["layer"], one["neuron"]) for one in erasure.details["value_vectors"]] == [(0, 5), (1, 9)]
    first, second = erasure.details["value_vectors"]
    assert first["raises_words"] > second["raises_words"] > 0
    # By hand: the logits of the vector over the vocabulary, and how far the word's are above their mean.
    head = model.get_output_embeddings().weight.detach().double()
    logits = head @ weight(model, 0)[:, 5].detach().double()
    expected = (logits[tokens].mean() - logits.mean()) / logits.std(correction=0)
    assert first["raises_words"] == pytest.approx(float(expected), rel=1e-3)
    assert first["top_tokens"][0] == zoo.tokenizer("llama").decode([int(logits.argmax())])
    assert len(erasure.tensors) == 2
    (only,) = fit(NAME, {"words": ["town"], "layer": 1}, model=model).details["value_vectors"]
    assert (only["layer"], only["neuron"]) == (1, 9)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, r"neither was given.*method\.layer, method\.neurons"),
        ({"layer": 0, "neurons": [1], "words": ["a"]}, "both method.neurons and method.words were given"),
        ({"neurons": [1]}, r"method\.neurons=\[1\] are places in one layer\. Name it"),
        ({"layer": 0, "neurons": [1], "vectors": 2}, r"method\.vectors=2 counts vectors found by words"),
        ({"layer": 0, "neurons": [1, 1]}, "names one twice"),
        ({"layer": 0, "neurons": [1], "noise": 0}, r"method\.noise=0"),
    ],
)
def test_fields_that_do_not_fit_together(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_method(NAME, values)


def test_what_the_model_does_not_have() -> None:
    with pytest.raises(ModelError, match=r"layer 1 of LlamaForCausalLM has no neurons 128, 500: it has 0 to 127"):
        fit(NAME, {"layer": 1, "neurons": [3, 128, 500]})
    with pytest.raises(ModelError, match="has no layer 2: it has layers 0 to 1"):
        fit(NAME, {"layer": 2, "neurons": [3]})
    with pytest.raises(ModelError, match=r"is a mixture of experts.*Choose a dense layer"):
        fit(NAME, {"layer": 0, "neurons": [3]}, family="mixtral")
    with pytest.raises(ConfigError, match=r"words ' ' have no tokens"):
        fit(NAME, {"words": ["town", " "]})


def test_words_are_looked_for_in_dense_layers_and_the_others_are_said(caplog: pytest.LogCaptureFixture) -> None:
    # Of this family's two layers the first is dense, the second has experts and a shared one.
    erasure = fit(NAME, {"words": ["town"], "vectors": 3}, family="deepseek")
    assert [one["layer"] for one in erasure.details["value_vectors"]] == [0, 0, 0]
    assert erasure.details["layers_not_searched"] == [1]
    assert "have no MLP that is recognised: layers 1." in caplog.text
    assert "layers_not_searched" not in fit(NAME, {"words": ["town"]}).details
    assert "layers_not_searched" not in fit(NAME, {"words": ["town"], "layer": 0}, family="deepseek").details


def check(values: dict[str, Any], family: str = "llama") -> None:
    make_method(NAME, values).check(zoo.model(family), zoo.tokenizer(family), REQUEST)


def test_words_that_cannot_be_looked_for_are_refused_before_the_fit() -> None:
    with pytest.raises(ModelError, match=r"no layer of MixtralForCausalLM has one dense down projection"):
        check({"words": ["town"]}, "mixtral")
    with pytest.raises(ModelError, match=r"layer 1 of Deepseek\w+ is a mixture of experts"):
        check({"words": ["town"], "layer": 1}, "deepseek")
    # Each layer has 128 neurons: 128 vectors in one, 2 * 128 = 256 in both, 128 in the dense one of two.
    check({"words": ["town"], "vectors": 128, "layer": 0})
    check({"words": ["town"], "vectors": 256})
    with pytest.raises(
        ModelError, match=r"method\.vectors=129 are more than there are in layer 0 of LlamaForCausalLM: 128\."
    ):
        check({"words": ["town"], "vectors": 129, "layer": 0})
    with pytest.raises(
        ModelError, match=r"method\.vectors=257 are more than there are in layers 0, 1 of LlamaForCausalLM: 256\."
    ):
        check({"words": ["town"], "vectors": 257})
    with pytest.raises(
        ModelError, match=r"method\.vectors=129 are more than there are in layer 0 of Deepseek\w+: 128\."
    ):
        check({"words": ["town"], "vectors": 129}, "deepseek")


@pytest.mark.parametrize(
    ("dtype", "said"),
    [
        (torch.float32, r"rounding to float32\. Raise method\.noise\.$"),
        (torch.bfloat16, r"rounding to bfloat16\. Raise method\.noise, or load .* model\.dtype=float32\.$"),
    ],
)
def test_noise_that_is_rounded_away(dtype: torch.dtype, said: str) -> None:
    # 1e-30 would change only weights below 1e-30 * 2^24, about 2e-23; those of deviation 0.02 have none.
    with pytest.raises(TrainingError, match=said):
        fit(NAME, {"layer": 0, "neurons": [7], "noise": 1e-30}, model=zoo.model("llama").to(dtype))


def test_a_bfloat16_model_keeps_its_precision() -> None:
    model = zoo.model("llama").to(torch.bfloat16)
    erasure = fit(NAME, {"layer": 0, "neurons": [7]}, model=model)
    ((name, after),) = erasure.tensors.items()
    assert after.dtype == torch.bfloat16
    before = weight(model, 0).detach().clone()
    with erasure.applied(model):
        changed = weight(model, 0).detach()
        assert bool((changed[:, 7] != before[:, 7]).any())
        assert torch.equal(changed[:, :7], before[:, :7])
    assert torch.equal(weight(model, 0), before), name
