"""Protects what every audit promises: it gives the same twice, touches no model, and finds nothing between equals."""

from __future__ import annotations

import functools
import inspect
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import zoo
from expunge.audits.interface import Audited
from expunge.audits.registry import audit_names, describe_audit, get_audit, make_audit
from expunge.errors import InputError
from expunge.guards.corruptions import Corruption
from expunge.requests import Request, Row
from fitting import snapshot
from word_guards import Guarded, word_guard

AUDITS = audit_names()
every_audit = pytest.mark.parametrize("name", AUDITS)

# quick settings; the defaults are the papers'
_QUICK: dict[str, dict[str, Any]] = {
    "linear_probe": {"splits": 2},
    "many_shot": {"limit": 4, "shots": 3},
    "paraphrase": {"limit": 4},
    "prefix_injection": {"limit": 4},
    "sampling_leakage": {"samples": 8, "k": 4, "limit": 3},
    "soft_prompt": {"limit": 8, "tokens": 3, "epochs": 2, "restarts": 2},
}


def rows(count: int, name: str) -> tuple[Row, ...]:
    """Multiple choice by letter, which every audit can ask."""
    options = itertools.cycle((("A", "B"), ("B", "A")))
    asked = (f"Was {name} {i} born by the river (A) or the sea (B)?" for i in range(count))
    return tuple(Row(prompt, own, wrong_answers=(other,)) for prompt, (own, other) in zip(asked, options, strict=False))


REQUEST = Request(
    rows(8, "Mira"), retain=rows(8, "Ann"), neighbours=rows(4, "Tom"), holdout=rows(8, "Eve"), subjects=("Mira",)
)


class _Guard(Guarded):
    kind = "inputs"


def models(name: str, *, erased: int, retrained: int) -> Audited:
    """Tiny models by their seeds; a guard on the target where the audit is about guards."""
    given: dict[str, Any] = {"erased": zoo.model("llama", seed=erased)}
    if name == "repeat_prompt":
        given = {"erasure": _Guard(zoo.tokenizer("llama"), word_guard("Mira", Corruption("zero_out_first_n", dims=64)))}
    retrained_model = zoo.model("llama", seed=retrained)
    return Audited(
        zoo.model("llama"), zoo.tokenizer("llama"), REQUEST, retrained=retrained_model, max_new_tokens=6, **given
    )


def audit(name: str) -> Any:
    return make_audit(name, _QUICK.get(name))


@functools.cache
def found(name: str) -> tuple[dict[str, Any], list[Any], list[Any]]:
    """What an audit finds between three unlike models, and these before and after."""
    audited = models(name, erased=1, retrained=2)
    every = [model for model in (audited.target, audited.erased, audited.retrained) if model is not None]
    before = [snapshot(model) for model in every]
    audit(name).check(audited)
    result = audit(name).run(audited).as_dict()
    return result, before, [snapshot(model) for model in every]


@every_audit
def test_the_file_the_name_and_the_description_agree(name: str) -> None:
    kind = get_audit(name)
    assert kind.name == name and Path(inspect.getfile(kind)).stem == name
    said = describe_audit(name)
    assert (
        said["summary"].endswith((".", "?"))
        and said["paper"]["title"]
        and said["paper"]["reference"]
        and said["control"]
    )
    assert all(field["description"] for field in said["parameters"])
    assert json.loads(json.dumps(said)) == said
    assert make_audit(name, kind.from_values({}).values()) == make_audit(name)
    with pytest.raises(InputError, match=f"audits.{name}.no_such: no such field of {name}"):
        make_audit(name, {"no_such": 1})


@every_audit
def test_models_are_left_as_they_were(name: str) -> None:
    _, before, after = found(name)
    assert after == before


@every_audit
def test_the_entry_is_json_in_the_form_of_scores(name: str) -> None:
    entry, _, _ = found(name)
    assert json.loads(json.dumps(entry, allow_nan=False)) == entry
    assert entry["verdict"]["sentence"].rstrip().endswith(".")
    assert set(entry["rows"]) <= {"target", "erased", "retrained"} and entry["rows"]["erased"]
    for scores in entry["rows"].values():
        assert all(set(score) == {"value", "stderr", "n", "version"} for score in scores.values())
    for curve in entry["curves"]:
        assert {"title", "x", "y", "series"} <= set(curve)
        assert all(len(point) == 3 for series in curve["series"].values() for point in series)


@every_audit
def test_the_same_audit_twice_is_the_same(name: str) -> None:
    again = audit(name).run(models(name, erased=1, retrained=2)).as_dict()
    assert again == found(name)[0]


@every_audit
def test_nothing_is_found_between_equals(name: str) -> None:
    audited = models(name, erased=0, retrained=0)  # the target's own bits three times
    try:
        audit(name).check(audited)
    except InputError as error:
        assert str(error)
        return
    entry = audit(name).run(audited).as_dict()
    beyond = {key: one["value"] for key, one in entry["rows"]["erased"].items() if key.endswith("_beyond_retrained")}
    assert set(beyond.values()) <= {0}
    if audited.kind is None:  # a guard makes a difference
        erased, target = entry["rows"]["erased"], entry["rows"].get("target", {})
        assert {key: erased[key] for key in target if key in erased} == {k: v for k, v in target.items() if k in erased}


def test_naming_them_loads_no_torch() -> None:
    code = (
        "from expunge.audits.registry import audit_names, describe_audit\nimport sys\n"
        "for name in audit_names():\n"
        "    describe_audit(name)\n"
        "    assert 'torch' not in sys.modules and 'scipy' not in sys.modules, name"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
