"""Protects the caller's model: after evaluating, training or an adapter every module, mode and flag is as before."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

import zoo
from expunge.models.state import evaluating, preserved

PAIRS = [("llama", {}), ("llama", {"tie_word_embeddings": True}), ("gpt2", {}), ("gemma2", {}), ("opt", {})]
# Untied Llama, tied Llama, Conv1D layers, tied with soft caps, tied with flat MLP tensors.
every_pair = pytest.mark.parametrize(("family", "shape"), PAIRS)
IDS = torch.tensor([[5, 6, 7, 8, 9]])


def mixed_model(family: str, shape: dict[str, Any]) -> Any:
    """A model whose modes and flags differ from module to module, as a caller may have set them."""
    model = zoo.model(family, **shape)
    model.train()
    model.get_input_embeddings().eval()
    frozen, used = [p for n, p in model.named_parameters() if "norm" in n or "ln_" in n][:2]
    frozen.requires_grad_(False)
    used.grad = torch.ones_like(used)  # the caller is in the middle of something
    return model


def facts(model: Any) -> dict[str, Any]:
    """All that must be as before: identities, modes, flags, ties, values, instance attributes."""
    return {
        "modules": [(name, id(module)) for name, module in model.named_modules(remove_duplicate=False)],
        "order": [list(module._modules) for module in model.modules()],
        "modes": [module.training for module in model.modules()],
        "parameters": [(n, id(p), p.requires_grad) for n, p in model.named_parameters()],
        "gradients": {n: None if p.grad is None else p.grad.tolist() for n, p in model.named_parameters()},
        "hooks": [{k: len(v) for k, v in vars(m).items() if k.endswith("hooks") and v} for m in model.modules()],
        "tied": model.get_input_embeddings().weight is model.get_output_embeddings().weight,
        "values": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "forwards": [module.__dict__.get("forward") for module in model.modules()],
        "class": type(model),
        "use_cache": model.config.use_cache,
    }


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    for name in wanted.keys() - {"values"}:
        assert found[name] == wanted[name], name
    assert found["values"].keys() == wanted["values"].keys()
    assert all(torch.equal(found["values"][key], value) for key, value in wanted["values"].items())


def lora(**settings: Any) -> LoraConfig:
    values = {"r": 2, "task_type": "CAUSAL_LM", "target_modules": "all-linear", "init_lora_weights": False}
    return LoraConfig(**{**values, **settings})


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    with evaluating(model):
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


@every_pair
@pytest.mark.parametrize("fails", [False, True])
def test_evaluating_restores_every_module_s_own_mode(family: str, shape: dict[str, Any], fails: bool) -> None:
    model = mixed_model(family, shape)
    wanted = facts(model)
    assert len(set(wanted["modes"])) == 2
    try:
        with evaluating(model):
            assert not any(module.training for module in model.modules())
            if fails:
                raise ValueError("stopped")
    except ValueError:
        assert fails
    assert_same(facts(model), wanted)


@every_pair
@pytest.mark.parametrize("fails", [False, True])
def test_preserved_lifts_lora_after_training(family: str, shape: dict[str, Any], fails: bool) -> None:
    model = mixed_model(family, shape)
    wanted, before = facts(model), logits(model)
    try:
        with preserved(model):
            adapted: Any = get_peft_model(model, lora())
            adapted.train()
            adapted(input_ids=IDS, labels=IDS).loss.backward()
            assert any(p.grad is not None for p in adapted.parameters())
            assert not torch.equal(logits(model), before)
            assert [id(module) for module in model.modules()] != [i for _, i in wanted["modules"]]
            if fails:
                raise ValueError("stopped")
    except ValueError:
        assert fails
    assert_same(facts(model), wanted)
    assert torch.equal(logits(model), before)
    assert not any("lora" in key for key in model.state_dict())
    assert not hasattr(model, "peft_config")


@every_pair
def test_preserved_lifts_lora_on_the_embedding_and_a_trained_head(family: str, shape: dict[str, Any]) -> None:
    model = mixed_model(family, shape)
    head = next(name for name, module in model.named_modules() if module is model.get_output_embeddings())
    embedding = next(name for name, module in model.named_modules() if module is model.get_input_embeddings())
    wanted, before = facts(model), logits(model)
    with preserved(model):
        get_peft_model(model, lora(target_modules=[embedding.rpartition(".")[2]], modules_to_save=[head]))
    assert_same(facts(model), wanted)
    assert torch.equal(logits(model), before)


def test_preserved_twice_in_a_row_gives_the_same_adapter_model_again() -> None:
    model = mixed_model("llama", {})
    wanted = facts(model)
    found = []
    for _ in range(2):
        with preserved(model):
            torch.manual_seed(0)
            get_peft_model(model, lora())
            found.append(logits(model))
        assert_same(facts(model), wanted)
    assert torch.equal(*found)


def test_preserved_inside_an_adapter_keeps_the_adapter() -> None:
    model = mixed_model("llama", {})
    outer: Any = get_peft_model(model, lora())
    assert isinstance(outer, PeftModel)
    wanted, before = facts(outer), logits(outer)
    with preserved(outer):
        outer.eval()
        outer.requires_grad_(True)
    assert_same(facts(outer), wanted)
    assert torch.equal(logits(outer), before)


@every_pair
@pytest.mark.parametrize("reentrant", [False, True])
def test_preserved_undoes_gradient_checkpointing(family: str, shape: dict[str, Any], reentrant: bool) -> None:
    model = mixed_model(family, shape)
    wanted, before = facts(model), logits(model)
    with preserved(model):
        model.config.use_cache = False
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        model.enable_input_require_grads()
        assert model.is_gradient_checkpointing
        model(input_ids=IDS, labels=IDS).loss.backward()
    assert not model.is_gradient_checkpointing
    assert_same(facts(model), wanted)
    assert torch.equal(logits(model), before)


def test_preserved_starts_without_the_caller_s_gradients() -> None:
    model = mixed_model("llama", {})
    with preserved(model):
        assert all(parameter.grad is None for parameter in model.parameters())


def test_preserved_undoes_wrapped_forwards_flags_and_new_modules() -> None:
    model = mixed_model("llama", {})

    def own(*args: Any, **kwargs: Any) -> Any:
        return type(layer).forward(layer, *args, **kwargs)

    layer = model.model.layers[0]
    layer.forward = own  # the caller's own wrapper stays
    wanted = facts(model)
    with pytest.raises(ValueError, match="stopped"), preserved(model):
        layer.forward = torch.nn.Identity().forward
        model.forward = own  # as accelerate does for mixed precision
        model._original_forward = "kept"
        model.model.layers[1].mlp = torch.nn.Identity()
        model.extra = torch.nn.Linear(2, 2)
        del model.model.norm
        model.requires_grad_(False)
        model.eval()
        raise ValueError("stopped")
    assert_same(facts(model), wanted)
    assert "_original_forward" not in model.__dict__


def test_preserved_leaves_values_and_hooks_to_others() -> None:
    model = mixed_model("llama", {})
    seen: list[int] = []
    with preserved(model), torch.no_grad():
        model.lm_head.weight.add_(1)
        handle = model.lm_head.register_forward_hook(lambda *_: seen.append(1))
    assert float((model.lm_head.weight - zoo.model("llama").lm_head.weight).detach().min()) > 0.9
    logits(model)
    assert seen == [1]
    handle.remove()
