"""Protects what every method promises, whatever it does: one matrix over all names, so that a new file is covered."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from expunge.errors import ConfigError, RequestError
from expunge.methods.interface import Erasure
from expunge.methods.registry import describe_method, get_method, make_method, method_names
from expunge.methods.weight_method import WeightMethod
from expunge.requests import Request
from fitting import REQUEST, StoppedError, fit, logits, rows, same_tensors, snapshot, stop_at

METHODS = method_names()
WEIGHTS = [name for name in METHODS if issubclass(get_method(name), WeightMethod)]
every_method = pytest.mark.parametrize("name", METHODS)
every_weight_method = pytest.mark.parametrize("name", WEIGHTS)
# one of each way in which a loss reads rows; the others too with the slow tests
_WAYS = {"npo", "altpo", "rmu", "pdu", "sku", "causal_intervention"}
every_way = pytest.mark.parametrize(
    "name", [name if name in _WAYS else pytest.param(name, marks=pytest.mark.slow) for name in WEIGHTS]
)

_GIVEN: dict[str, dict[str, Any]] = {
    "rmu": {"layer": 1},
    "scrub": {"order": ["min", "max"]},
    "causal_intervention": {"substitutes": 3},
    "concept_vector_ablation": {"layer": 1, "neurons": [3, 70]},
    "key_space_detection": {"level": 0.5},
    "refusal_guard": {"level": 0.3, "folds": 2},
    "embedding_corruption": {"level": 0.3, "folds": 2, "evaluations": 4},
}


def required(name: str) -> dict[str, Any]:
    """A value for each field without a default, or whose default asks for a larger model or more epochs than here."""
    given: dict[str, Any] = _GIVEN.get(name, {})
    for field in get_method(name).parameters():
        if field["required"]:
            low = field["range"].get("minimum", field["range"].get("exclusiveMinimum", 0))
            given[field["name"]] = low + 1 if field["type"] in ("number", "integer") else "1"
    return given


@functools.cache
def fitted(name: str) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The method's erasure on the tiny Llama, and everything about that model before and after the fit."""
    model = zoo.model("llama")
    before = snapshot(model)
    erasure = fit(name, required(name), model=model, max_steps=2)
    return erasure, before, snapshot(model)


@every_method
def test_the_file_the_name_and_the_description_agree(name: str) -> None:
    method = get_method(name)
    assert method.name == name
    assert Path(inspect.getfile(method)).stem == name
    found = describe_method(name)
    assert found["summary"].endswith(".")
    assert found["paper"]["title"]
    assert found["paper"]["reference"]
    assert all(field["description"] for field in found["parameters"]), "every field says what it is"
    assert json.loads(json.dumps(found)) == found


@every_method
def test_fields_are_frozen_checked_and_round_trip(name: str) -> None:
    method = make_method(name, required(name))
    values = json.loads(json.dumps(method.values()))
    assert make_method(name, values) == method
    assert set(values) == {field["name"] for field in get_method(name).parameters()}
    with pytest.raises(ConfigError, match=f"method.no_such: no such field of {name}"):
        make_method(name, {**values, "no_such": 1})
    for field in dataclasses.fields(method):  # type: ignore[arg-type]
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(method, field.name, values[field.name])


@every_method
def test_a_fit_leaves_the_model_as_it_was(name: str) -> None:
    _, before, after = fitted(name)
    assert after == before


@every_method
def test_the_erasure_works_inside_and_is_lifted_bit_for_bit(name: str) -> None:
    erasure, _, _ = fitted(name)
    model = zoo.model("llama")
    before, plain = snapshot(model), logits(model)
    with pytest.raises(RuntimeError, match="inside"), erasure.applied(model) as erased:
        assert erased is model
        assert erasure.kind != "weights" or not torch.equal(logits(erased), plain)
        raise RuntimeError("inside")
    assert snapshot(model) == before
    assert torch.equal(logits(model), plain)


@every_method
def test_saved_and_loaded_it_is_the_same_erasure(name: str, tmp_path: Path) -> None:
    erasure, _, _ = fitted(name)
    erasure.save(tmp_path / "erasure")
    loaded = Erasure.load(tmp_path / "erasure")
    assert loaded.manifest == erasure.manifest
    assert loaded.manifest.method == name
    assert loaded.manifest.parameters == json.loads(json.dumps(make_method(name, required(name)).values()))
    files = [path for path in (tmp_path / "erasure").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".jinja"}  # no pickle
    model = zoo.model("llama")
    with erasure.applied(model):
        ours = logits(model)
    with loaded.applied(model):
        assert torch.equal(logits(model), ours)


@every_method
def test_the_same_fit_twice_is_the_same(name: str) -> None:
    again = fit(name, required(name), max_steps=2)
    model = zoo.model("llama")
    with fitted(name)[0].applied(model):
        ours = logits(model)
    with again.applied(model):
        assert torch.equal(logits(model), ours)


@every_weight_method
def test_only_the_chosen_parameters_change(name: str) -> None:
    pattern = ("*.layers.1.mlp.*",)
    erasure = fit(name, required(name), max_steps=2, layers=pattern)
    assert 0 < len(erasure.tensors) <= 3
    assert all(".layers.1.mlp." in tensor for tensor in erasure.tensors)


@every_way
def test_it_trains_an_adapter_too_and_a_stop_leaves_nothing(name: str) -> None:
    model = zoo.model("llama")
    before, plain = snapshot(model), logits(model)
    with pytest.raises(StoppedError):
        fit(name, required(name), model=model, parameters="lora", progress=stop_at(1))
    assert snapshot(model) == before
    erasure = fit(name, required(name), model=model, parameters="lora", max_steps=2, learning_rate=1e-2)
    assert snapshot(model) == before
    assert all("lora_" in tensor for tensor in erasure.tensors)
    with erasure.applied(model):
        assert not torch.equal(logits(model), plain)


@every_way
def test_accumulating_4_x_2_is_8_x_1(name: str) -> None:
    # 11 rows, 8 a step: the second step's accumulation ends early (2 + 1 of 4 forwards).
    request = Request(forget=rows(11, "forget"), retain=rows(11, "retain"), subjects=("forget",))
    sgd: dict[str, Any] = {"optimizer": "sgd", "weight_decay": 0, "learning_rate": 0.05, "epochs": 1}
    one, other = (
        fit(name, required(name), request=request, forget_batch=b, retain_batch=b, accumulation=8 // b, **sgd)
        for b in (8, 2)
    )
    assert one.tensors.keys() == other.tensors.keys()
    for tensor, value in one.tensors.items():
        torch.testing.assert_close(other.tensors[tensor], value, atol=2e-6, rtol=0, msg=f"{name}: {tensor}")


@every_way
def test_resuming_changes_nothing(name: str, tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        fit(name, required(name), folder=tmp_path, checkpoint_every=1, max_steps=3, progress=stop_at(2))
    resumed = fit(name, required(name), folder=tmp_path, checkpoint_every=1, max_steps=3)
    assert same_tensors(resumed, fit(name, required(name), checkpoint_every=1, max_steps=3))


@every_weight_method
def test_it_says_when_retain_rows_are_missing(name: str) -> None:
    method: Any = make_method(name, required(name))
    alone = Request(forget=REQUEST.forget, subjects=REQUEST.subjects)
    if method.uses_retain:
        with pytest.raises(RequestError, match="--retain FILE"):
            fit(method, request=alone)
    else:
        assert fit(method, request=alone, max_steps=1).tensors
