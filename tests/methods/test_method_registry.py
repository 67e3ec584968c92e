"""Protects finding methods by name: lazily, one file a method, with suggestions, plugins from outside included."""

from __future__ import annotations

import subprocess
import sys
import types
from importlib.metadata import EntryPoint
from typing import Any, ClassVar

import pytest

import expunge.named_classes as named_classes
from expunge.errors import ConfigError, UnknownNameError
from expunge.methods.interface import Method, Paper, method_fields
from expunge.methods.registry import describe_method, get_method, make_method, method_names
from expunge.methods.weight_method import WeightMethod
from expunge.methods.weights.npo import NPO


def test_the_baselines_are_there() -> None:
    assert {"finetune", "grad_ascent", "grad_diff", "npo"} <= set(method_names())
    assert get_method("npo") is NPO


@pytest.mark.parametrize("code", ["method_names()", "describe_method('npo')", "make_method('npo', {'beta': 0.2})"])
def test_listing_and_describing_load_no_torch(code: str) -> None:
    loaded = "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    script = f"import sys; from expunge.methods.registry import *; {code}; {loaded}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match=r"no method 'grad_asent'. Did you mean 'grad_ascent'"):
        get_method("grad_asent")


def test_all_bad_fields_come_in_one_error() -> None:
    with pytest.raises(ConfigError) as caught:
        make_method("npo", {"betta": 0.2, "alpha": -1, "beta": 0})
    text = str(caught.value)
    assert "method.betta: no such field of npo. Did you mean 'beta' or 'retain'? Known: alpha, beta, retain." in text
    assert "method.alpha=-1" in text
    assert "method.beta=0" in text


def test_a_description_has_what_the_listings_print() -> None:
    found = describe_method("npo")
    assert (found["name"], found["family"], found["paper"]["reference"]) == ("npo", "weights", "arXiv 2404.05868")
    beta = next(p for p in found["parameters"] if p["name"] == "beta")
    assert beta == {
        "name": "beta",
        "type": "number",
        "default": 0.1,
        "required": False,
        "range": {"exclusiveMinimum": 0},
        "description": "inverse temperature of the preference",
    }


@method_fields
class Outsider(WeightMethod):
    """A method from another package."""

    name: ClassVar[str] = "outsider"
    paper: ClassVar[Paper] = Paper("None", "none")

    def loss(self, step: Any) -> dict[str, Any]:
        raise NotImplementedError


def test_an_entry_point_adds_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("outsider", f"{__name__}:Outsider", "expunge.methods")
    monkeypatch.setattr(named_classes, "entry_points", lambda group: [point] if group == "expunge.methods" else [])
    monkeypatch.setattr(EntryPoint, "load", lambda _: Outsider)
    assert "outsider" in method_names()
    assert isinstance(make_method("outsider"), Outsider)


def test_a_file_defines_exactly_one_method(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("two_methods")
    for name in ("First", "Second"):
        setattr(module, name, type(name, (Method,), {"__module__": "two_methods"}))
    monkeypatch.setattr(named_classes.NamedClasses, "_modules", lambda _: {"two": "two_methods"})
    monkeypatch.setitem(sys.modules, "two_methods", module)
    with pytest.raises(ConfigError, match="must define one Method, it defines 2"):
        get_method("two")
