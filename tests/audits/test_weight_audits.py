"""Protects the audits that change weights: what rounding, training, pruning and noise bring back in tiny models."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import zoo
from expunge.audits.interface import Audited
from expunge.audits.parts.plain_weights import matrices
from expunge.audits.parts.rounding import round_to_nearest
from expunge.audits.registry import make_audit
from expunge.data.batches import Batch, collate, pad_id
from expunge.data.encode import encode_all
from expunge.data.template import Template
from expunge.errors import ConfigError, InputError, ModelError
from expunge.guards.corruptions import Corruption
from expunge.methods.registry import make_method
from expunge.models.logprobs import answer_logprobs
from expunge.requests import Request, Row
from expunge.training.fit import fit_weights
from expunge.training.run import Run
from expunge.training.settings import TrainingSettings
from fitting import snapshot
from word_guards import Guarded, word_guard

WORDS = ("book", "name", "author", "born", "city", "father", "award", "year")
TOKENIZER = zoo.tokenizer("llama")


def _rows(seed: int, count: int) -> tuple[Row, ...]:
    draws = torch.randint(len(WORDS), (count, 4), generator=torch.Generator().manual_seed(seed)).tolist()
    return tuple(Row(f"What about {n}?", " ".join(WORDS[i] for i in some)) for n, some in enumerate(draws))


FORGET, RETAIN = _rows(1, 12), tuple(Row(f"And {row.prompt}", row.answer) for row in _rows(2, 6))
REQUEST = Request(FORGET, retain=RETAIN)


def _batch(rows: tuple[Row, ...]) -> Batch:
    return collate(encode_all(TOKENIZER, Template.of(TOKENIZER), rows, max_length=64), pad_id(TOKENIZER))


def _nll(model: Any, batch: Batch) -> torch.Tensor:
    return -answer_logprobs(model, batch, hits=False).logps.mean()


def _taught(model: Any, rows: tuple[Row, ...], steps: int) -> Any:
    batch, optimizer = _batch(rows), torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(steps):
        _nll(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return model


def _to_4_bits(model: Any) -> Any:
    with torch.no_grad():
        for weight in matrices(model).values():
            weight.copy_(round_to_nearest(weight, 7, 64).values)
    return model


@pytest.fixture(scope="module")
def models() -> tuple[Any, Any]:
    """One that knows forget and retain rows, with weights that 4 bits hold, and one that knows the retain rows."""
    return _to_4_bits(_taught(zoo.model("llama"), FORGET + RETAIN, 70)), _taught(zoo.model("llama"), RETAIN, 40)


def _hidden_below_rounding(target: Any) -> Any:
    """Forgets within 0.4 steps of the 4-bit grid; the largest of each group stays, so that the grid does, too."""
    model, batch = copy.deepcopy(target), _batch(FORGET)
    own = {name: weight.detach().clone() for name, weight in matrices(model).items()}
    room = {}
    for name, weight in own.items():
        parts = weight.unflatten(-1, (-1, 64)).abs()
        largest = parts.amax(-1, keepdim=True)
        room[name] = torch.where(parts < largest, 0.4 * largest / 7, 0.0).flatten(-2)
    for _ in range(6):
        model.zero_grad()
        _nll(model, batch).backward()
        with torch.no_grad():
            for name, weight in matrices(model).items():
                moved = weight + 0.5 * room[name] * weight.grad.sign() - own[name]
                weight.copy_(own[name] + moved.clamp(-room[name], room[name]))
    model.zero_grad()
    return model


def test_what_is_hidden_below_rounding_comes_back_in_4_bits(models: tuple[Any, Any]) -> None:
    target, retrained = models
    erased = _hidden_below_rounding(target)
    before = [snapshot(one) for one in (target, erased, retrained)]
    audit = make_audit("quantization", {"through": "own"})
    found = audit.run(Audited(target, TOKENIZER, REQUEST, erased=erased, retrained=retrained))
    assert [snapshot(one) for one in (target, erased, retrained)] == before
    rows = found.rows
    assert rows["erased"]["forget_probability"].value < 0.2 < 0.9 < rows["target"]["forget_probability"].value
    # no weight was moved by half a step: rounding gives the target, bit for bit
    assert found.details["of_changed_weights"]["int4"]["share_of_same_value"] == 1
    assert rows["erased"]["quantization_int4_probability"].value == rows["target"]["forget_probability"].value
    assert found.details["of_changed_weights"]["int8"]["share_of_same_code"] < 0.5
    assert found.label == "comes back" and found.details["comes_back"]["levels"]["first"] == "int4"
    assert found.sentence.startswith("With 4-bit weights, ")
    assert "100% have the target's rounded value in int4 (100% its code)" in found.sentence


def test_a_model_that_never_knew_is_erased_to_all_of_them(models: tuple[Any, Any]) -> None:
    target, retrained = models
    erased = _taught(zoo.model("llama", seed=5), RETAIN, 40)
    audited = Audited(target, TOKENIZER, REQUEST, erased=erased, retrained=retrained)
    for name, options in (
        ("quantization", {"through": "own", "limit": 6}),
        ("pruning", {"shares": (0.1, 0.99), "limit": 6}),
        ("weight_noise", {"scales": (0.1,), "limit": 6}),
    ):
        found = make_audit(name, options).run(audited)
        assert found.label == "erased", found.sentence
        assert found.rows["erased"]["forget_probability"].n == 6
        if name == "pruning":
            assert found.details["comes_back"]["levels"]["ruined_at"] == [0.99]
            assert "retain_probability" in " ".join(found.rows["retrained"])


@pytest.mark.parametrize("trained", ["full", "lora"])
def test_relearning_half_brings_back_the_other_half(models: tuple[Any, Any], trained: str) -> None:
    target, retrained = models
    erased = copy.deepcopy(target)
    # a few steps against the gradient, which are soon gone back
    optimizer, batch = torch.optim.SGD(erased.parameters(), lr=0.02), _batch(FORGET)
    while float(_nll(erased, batch).detach()) < 1.0:
        (-_nll(erased, batch)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    before = [snapshot(one) for one in (target, erased, retrained)]
    audit = make_audit("relearning", {"trained": (trained,), "steps": (2, 10), "learning_rate": 1e-3, "batch": 6})
    found = audit.run(Audited(target, TOKENIZER, REQUEST, erased=erased, retrained=retrained))
    assert [snapshot(one) for one in (target, erased, retrained)] == before
    assert found.label == "comes back", found.sentence
    first = found.details["comes_back"][f"forget_{trained}"]["first"]
    assert first in (2, 10) and f"After {first} steps on 6 other forget rows" in found.sentence
    assert found.rows["erased"][f"relearning_forget_{trained}_10_probability"].n == 6


def test_training_that_teaches_nothing_proves_nothing(models: tuple[Any, Any]) -> None:
    target, retrained = models
    audited = Audited(target, TOKENIZER, REQUEST, erased=zoo.model("llama", seed=5), retrained=retrained)
    found = make_audit("relearning", {"steps": (1,), "learning_rate": 1e-6}).run(audited)
    assert found.label == "no claim" and "too weak" in found.sentence
    # on retain rows half of the loss need not go, but some must move
    twin = Audited(target, TOKENIZER, REQUEST, erased=copy.deepcopy(retrained), retrained=retrained)
    for rate, label in ((1e-9, "no claim"), (3e-3, "erased")):
        found = make_audit("relearning", {"texts": ("retain",), "steps": (8,), "learning_rate": rate}).run(twin)
        assert found.label == label and ("too weak" in found.sentence) == (label == "no claim"), found.sentence
        assert "6 rows were asked." in found.sentence
    alone = Audited(target, TOKENIZER, REQUEST, erased=zoo.model("llama", seed=5))
    found = make_audit("relearning", {"steps": (1,), "learning_rate": 1e-6}).run(alone)
    assert found.label == "no claim" and "--retrained" in found.sentence


@pytest.mark.parametrize("name", ["relearning", "quantization", "pruning", "weight_noise"])
def test_random_weights_are_not_erased(models: tuple[Any, Any], name: str) -> None:
    target, retrained = models
    audited = Audited(target, TOKENIZER, REQUEST, erased=zoo.model("llama", seed=5), retrained=retrained)
    options: dict[str, Any] = {
        "relearning": {"steps": (2,), "learning_rate": 1e-3},
        "quantization": {"through": "own"},
        "pruning": {"shares": (0.1,)},
        "weight_noise": {"scales": (0.01,), "draws": 1},
    }
    found = make_audit(name, options[name]).run(audited)
    assert found.label == "no claim" and "a ruined model gives nothing away" in found.sentence, found.sentence


def test_matrices_that_torchao_refuses_are_rounded_by_our_own(
    models: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of widths 64 and 128, as if the package took whole groups of 48 only: 64 / 48 is none."""
    from expunge.audits.parts import rounding

    own = rounding.rounder

    def packaged(scheme: Any, group: int, through: Any) -> Any:
        def round_(weight: torch.Tensor) -> Any:
            if scheme == "int4" and through == "torchao" and weight.shape[-1] % group:
                raise ConfigError(f"{weight.shape[-1]} inputs are no multiple of {group}.")
            return own(scheme, group, "own")(weight)

        return round_

    monkeypatch.setattr(rounding, "rounder", packaged)
    monkeypatch.setattr(rounding, "usual_backend", lambda _: "torchao")
    target, retrained = models
    audited = Audited(target, TOKENIZER, REQUEST, erased=zoo.model("llama", seed=5), retrained=retrained)
    found = make_audit("quantization", {"group": 48, "limit": 2}).run(audited)
    assert found.details["through"] == {"int8": "own", "int4": "own"}
    assert found.details["not_through_torchao"] == "128 inputs are no multiple of 48."
    with pytest.raises(ConfigError, match="128 inputs are no multiple of 48"):
        make_audit("quantization", {"group": 48, "through": "torchao"}).check(audited)
    found = make_audit("quantization", {"group": 64, "limit": 2}).run(audited)
    assert found.details["through"] == {"int8": "torchao", "int4": "torchao"}
    assert "not_through_torchao" not in found.details


def test_an_adapter_that_erases_is_trained_and_rounded_with_the_weights(models: tuple[Any, Any]) -> None:
    target, retrained = models
    settings = TrainingSettings(parameters="lora", learning_rate=0.02, max_steps=5, forget_batch=12, accumulation=1)  # type: ignore[call-arg]
    adapter = fit_weights(
        make_method("grad_ascent"), target, TOKENIZER, forget=FORGET, retain=(), run=Run(settings=settings)
    )
    audited = Audited(target, TOKENIZER, REQUEST, erasure=adapter, retrained=retrained)
    before = [snapshot(one) for one in models]
    found = make_audit("relearning", {"trained": ("full", "lora"), "steps": (1, 3)}).run(audited)
    # the rate is the erasure's own, fitted as LoRA: full training has a tenth of it
    assert found.details["learning_rate"] == pytest.approx({"full": 0.002, "lora": 0.02})
    assert found.rows["erased"]["forget_probability"].value < found.rows["target"]["forget_probability"].value
    undone = make_audit("quantization", {"limit": 4}).run(audited).details["of_changed_weights"]["int8"]
    assert undone["changed"] > 0.9 * sum(weight.numel() for weight in matrices(target).values())
    assert [snapshot(one) for one in models] == before


@pytest.mark.parametrize("family", ["gpt2", "mixtral", "gemma2"])
def test_other_families_in_16_bits(family: str) -> None:
    words = zoo.tokenizer(family)
    every = [zoo.model(family, seed=seed).bfloat16() for seed in range(3)]
    audited = Audited(every[0], words, REQUEST, erased=every[1], retrained=every[2], max_new_tokens=3)
    before = [snapshot(one) for one in every]
    for name, options in (
        ("relearning", {"trained": ("full", "lora"), "steps": (1,), "limit": 4}),
        ("quantization", {"schemes": ("int4",), "through": "own", "limit": 2}),
        ("pruning", {"shares": (0.5,), "limit": 2}),
        ("weight_noise", {"scales": (0.1,), "draws": 1, "limit": 2}),
    ):
        found = make_audit(name, options).run(audited)
        assert found.label == "no claim", found.sentence  # the target knows nothing
    assert [snapshot(one) for one in every] == before


def test_the_channels_of_inputs_first_weights_are_their_columns() -> None:
    from expunge.audits.parts.rounding import rounder
    from expunge.audits.quantization import _all_rounded

    model, name = zoo.model("gpt2"), "transformer.h.0.mlp.c_fc.weight"
    with torch.no_grad():
        model.get_parameter(name)[:, 3] *= 100  # of one output; the others keep their small steps
    weight = model.get_parameter(name).detach()
    step = weight.abs().amax(0, keepdim=True) / 127
    values = _all_rounded(rounder("int8", 64, "own"))(model)[name]
    assert bool(((values - weight).abs() <= 0.5001 * step).all())


def test_what_does_not_apply_is_said() -> None:
    target, retrained = zoo.model("llama"), zoo.model("llama", seed=2)
    guard = Guarded(TOKENIZER, word_guard("about", Corruption("zero_out_first_n", dims=64)))
    guard.kind = "inputs"  # type: ignore[misc]
    guarded = Audited(target, TOKENIZER, REQUEST, erasure=guard, retrained=retrained)
    with pytest.raises(InputError, match="leaves the weights as they were"):
        make_audit("relearning").check(guarded)
    found = make_audit("quantization", {"limit": 4}).run(guarded)
    assert found.details["of_changed_weights"] == {}
    erased = zoo.model("llama", seed=1)
    audited = Audited(target, TOKENIZER, REQUEST, erased=erased, retrained=retrained)
    with pytest.raises(ConfigError, match=r"steps=\[5, 5\]: expected ascending"):
        make_audit("relearning", {"steps": (5, 5)}).check(audited)
    with pytest.raises(InputError, match="no neighbours rows to train on"):
        make_audit("relearning", {"texts": ("neighbours",)}).check(audited)
    with pytest.raises(ConfigError, match=r"shares=\[0\.3, 1\.0\]"):
        make_audit("pruning", {"shares": (0.3, 1.0)}).check(audited)
    with pytest.raises(ConfigError, match=r"scales=\[0\.0\]"):
        make_audit("weight_noise", {"scales": (0.0,)}).check(audited)
    one_fact = Request((Row("Where?", "In Lahti."), Row("Where was it?", "In Lahti.")))
    with pytest.raises(InputError, match="the 2 that ask something are about one"):
        make_audit("relearning").check(Audited(target, TOKENIZER, one_fact, erased=erased, retrained=retrained))
    alone = Request(one_fact.forget[:1])
    with pytest.raises(InputError, match="and only one asks something"):
        make_audit("relearning").check(Audited(target, TOKENIZER, alone, erased=erased, retrained=retrained))
    two = Audited(target, TOKENIZER, Request(FORGET[:2]), erased=erased, retrained=retrained)
    found = make_audit("relearning", {"steps": (1,)}).run(two)
    assert "Only one row was asked" in found.sentence and "Of 2 rows 1 were trained on." in found.sentence
    erased.model.layers[0].mlp.up_proj.to("meta")
    for name in ("relearning", "quantization", "pruning", "weight_noise"):
        with pytest.raises(ModelError, match="offloaded"):
            make_audit(name).check(audited)
