"""Protects parameters put back: all of them give the target's logits bit for bit, and then every bit is as before."""

from __future__ import annotations

import copy
from contextlib import contextmanager, nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

import zoo
from expunge.audits.parts.comparing import Change, Errors
from expunge.audits.parts.restoring import (
    Restoring,
    differing,
    originals,
    parameter_groups,
    restorations,
    restored,
)
from expunge.data.encode import Example
from expunge.erasures.adapter import with_lora
from expunge.errors import ConfigError, ModelError

EXAMPLES = [Example([5, 6, 7, 8, 9, 10], 3, False, 6), Example([9, 8, 7, 6], 2, False, 4)]
FAMILIES = (*zoo.ISSUE_FAMILIES, "falcon", "deepseek", "qwen2_moe", "llama3")
GROUPS = ("values", "keys", "attention", "norms", "outside", "all")


def restoring(target: Any, erased: Any, changes: list[Change], **settings: Any) -> Errors:
    settings = {"padding": 0, "same_model": False, "originals": originals(target), **settings}
    return Restoring(partial(nullcontext, target), partial(nullcontext, erased), EXAMPLES, changes, **settings).errors()


@pytest.mark.parametrize("family", FAMILIES)
def test_restoring_all_parameters_gives_the_targets_logits_and_leaves_no_trace(family: str) -> None:
    target, erased = zoo.model(family), zoo.model(family, seed=1)
    before = {name: value.clone() for name, value in erased.state_dict().items()}
    changes = restorations(target, GROUPS)
    errors = restoring(target, erased, changes)
    everything = next(change for change in changes if change.component == "all")
    assert errors.erased.min() > 0
    assert errors.changed[everything].tolist() == [0.0, 0.0]
    assert all(torch.equal(value, before[name]) for name, value in erased.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_is_in_one_group(family: str) -> None:
    model = zoo.model(family)
    groups = parameter_groups(model)
    assert groups.keys() == dict(model.named_parameters(remove_duplicate=False)).keys()
    for layer in range(2):
        kinds = {kind for kind, number in groups.values() if number == layer}
        assert kinds - {"norms"} == {"values", "keys", "attention"}
    for name, (kind, _) in groups.items():
        if "q_norm" in name or "kv_a" in name:
            assert kind == "attention", name  # norms that lie inside attention are a part of it


def test_what_was_changed_is_what_brings_the_logits_back() -> None:
    target = zoo.model("llama")
    erased = copy.deepcopy(target)
    with torch.no_grad():
        erased.model.layers[1].mlp.down_proj.weight.mul_(-1)
    assert differing(erased, originals(target)) == ["model.layers.1.mlp.down_proj.weight"]
    changes = restorations(target, ["values", "keys", "attention"])
    errors = restoring(target, erased, changes)
    for change in changes:
        right = (change.component, change.centre) == ("values", 1)
        assert errors.changed[change].tolist() == ([0.0, 0.0] if right else errors.erased.tolist())


def test_windows_of_layers() -> None:
    model = zoo.model("llama", num_hidden_layers=3)
    changes = restorations(model, ["values", "outside"], width=3)
    assert changes == [
        Change("values", 0, range(2)),
        Change("values", 1, range(3)),
        Change("values", 2, range(1, 3)),
        Change("outside", None, range(3)),
    ]
    with pytest.raises(ConfigError, match="gates"):
        restorations(model, ["gates"])


def test_bits_are_back_after_an_exception() -> None:
    target, erased = zoo.model("gpt2"), zoo.model("gpt2", seed=1)
    before = {name: value.clone() for name, value in erased.state_dict().items()}
    names = differing(erased, originals(target))
    with pytest.raises(RuntimeError, match="on purpose"), restored(erased, originals(target), names):
        assert all(torch.equal(a, b) for a, b in zip(erased.parameters(), target.parameters(), strict=True))
        raise RuntimeError("on purpose")
    assert all(torch.equal(value, before[name]) for name, value in erased.state_dict().items())


def test_an_adapter_is_silenced_where_its_layer_is_restored() -> None:
    target = zoo.model("llama")

    @contextmanager
    def applied() -> Any:
        config = LoraConfig(r=2, target_modules=["down_proj", "q_proj"], init_lora_weights=False)
        torch.manual_seed(0)
        with with_lora(target, config):
            target.eval()
            yield target

    changes = restorations(target, GROUPS)
    settings: dict[str, Any] = {"padding": 0, "same_model": True, "originals": {}}
    errors = Restoring(partial(nullcontext, target), applied, EXAMPLES, changes, **settings).errors()
    assert errors.erased.min() > 0
    found = {(change.component, change.centre): errors.changed[change] for change in changes}
    assert found["all", None].tolist() == [0.0, 0.0]
    assert found["keys", 0].tolist() == errors.erased.tolist()
    assert (found["values", 1] != errors.erased).all()
    assert (found["attention", 0] != errors.erased).all()


@pytest.mark.parametrize("tied", ["target", "erased"])
def test_a_tied_head_and_one_of_its_own_are_told_apart(tied: str) -> None:
    """Everything that the target has is put back, also where one tensor of it goes to two places, or two to one."""
    target = zoo.model("llama", tie_word_embeddings=tied == "target")
    erased = zoo.model("llama", seed=1, tie_word_embeddings=tied == "erased")
    before = {name: value.clone() for name, value in erased.state_dict().items()}
    differ = differing(erased, originals(target))
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= set(differ)
    changes = restorations(target, ["outside", "all"])
    errors = restoring(target, erased, changes)
    assert errors.changed[changes[1]].tolist() == [0.0, 0.0]
    assert (errors.changed[changes[0]] != errors.erased).all()
    assert all(torch.equal(value, before[name]) for name, value in erased.state_dict().items())
    assert (erased.lm_head.weight is erased.model.embed_tokens.weight) == (tied == "erased")


def test_an_erasure_of_tied_weights_is_lifted_in_both_their_places() -> None:
    target = zoo.model("qwen2")
    assert target.lm_head.weight is target.model.embed_tokens.weight
    kept = originals(target, SimpleNamespace(tensors={"model.embed_tokens.weight": None}))  # type: ignore[arg-type]
    assert kept.keys() == {"model.embed_tokens.weight", "lm_head.weight"}
    with torch.no_grad():
        target.model.embed_tokens.weight.mul_(2)
    assert set(differing(target, kept, partial=True)) == kept.keys()
    with restored(target, kept, kept):
        assert target.lm_head.weight is target.model.embed_tokens.weight
        assert torch.equal(target.lm_head.weight, kept["lm_head.weight"])


def test_a_peft_model_is_restored_by_the_names_of_the_model_in_it() -> None:
    target = zoo.model("llama")
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["down_proj", "q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    erased: Any = get_peft_model(copy.deepcopy(target), config).eval()
    before = {name: value.clone() for name, value in erased.state_dict().items()}
    assert parameter_groups(erased) == parameter_groups(target)
    adapted = {f"model.layers.{n}.{name}.weight" for n in (0, 1) for name in ("self_attn.q_proj", "mlp.down_proj")}
    assert set(differing(erased, originals(target))) == adapted
    changes = restorations(target, GROUPS)
    errors = restoring(target, erased, changes)
    found = {(change.component, change.centre): errors.changed[change] for change in changes}
    assert errors.erased.min() > 0
    assert found["all", None].tolist() == [0.0, 0.0]
    assert found["keys", 0].tolist() == errors.erased.tolist()
    assert (found["values", 1] != errors.erased).all()
    assert all(torch.equal(value, before[name]) for name, value in erased.state_dict().items())
    erased.merge_adapter()
    with pytest.raises(ModelError, match="merged with an adapter"):
        differing(erased, originals(target))


@pytest.mark.parametrize("rows", [1, -1])
def test_padding_rows_of_the_vocabulary_are_passed_over(rows: int) -> None:
    target = zoo.model("llama", vocab_size=99)
    other = zoo.model("llama", seed=1, vocab_size=99)
    padded = zoo.model("llama", seed=2, vocab_size=99 + rows)
    few = min(99, 99 + rows)
    with torch.no_grad():
        for name, parameter in padded.named_parameters():
            own = other.get_parameter(name)
            parameter[:few].copy_(own[:few]) if len(parameter) != len(own) else parameter.copy_(own)
    changes = restorations(target, GROUPS)
    plain, found = restoring(target, other, changes), restoring(target, padded, changes)
    if rows > 0:  # 99 logits are compared, with and without the padding
        assert found.erased.tolist() == pytest.approx(plain.erased.tolist())
    everything = next(change for change in changes if change.component == "all")
    assert found.erased.min() > 0
    assert found.changed[everything].tolist() == [0.0, 0.0]


def test_what_the_target_lacks_is_an_error_that_says_so() -> None:
    target, erased = zoo.model("llama"), zoo.model("llama", attention_bias=True)
    with pytest.raises(ModelError, match=r"layers\.0\.self_attn\.q_proj\.bias is not in the target"):
        differing(erased, originals(target))
    # an erasure's originals are those of the parameters that it replaces
    assert differing(target, {}, partial=True) == []


def test_models_of_other_shapes_are_an_error_that_lists_what_differs() -> None:
    target, erased = zoo.model("llama"), zoo.model("llama", intermediate_size=96)
    with pytest.raises(
        ModelError, match=r"gate_proj\.weight has shape \[96, 64\], the target's \[128, 64\].* and 1 more"
    ):
        differing(erased, originals(target))
    with pytest.raises(ModelError, match=r"wte\.weight is missing"):
        differing(target, originals(zoo.model("gpt2")))
