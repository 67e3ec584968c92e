"""Finding methods by name: one file a method, imported only when asked for; entry points serve outsiders."""

from __future__ import annotations

from typing import Any

import expunge.methods.activations
import expunge.methods.inputs
import expunge.methods.weights
from expunge.methods.interface import Method
from expunge.named_classes import NamedClasses

_METHODS = NamedClasses[Method](
    Method,  # type: ignore[type-abstract]
    (expunge.methods.weights, expunge.methods.activations, expunge.methods.inputs),
    "expunge.methods",
    "method",
)


def method_names() -> list[str]:
    """All method names, without importing a method."""
    return _METHODS.names()


def get_method(name: str) -> type[Method]:
    """The class of the method called ``name``; an unknown name gets a suggestion."""
    return _METHODS.get(name)


def make_method(name: str, values: dict[str, Any] | None = None) -> Method:
    """A method with the given field values, the rest at the paper's defaults."""
    return get_method(name).from_values(values or {})


def describe_method(name: str) -> dict[str, Any]:
    """``name``, ``family``, ``summary``, ``paper``, ``parameters`` of one method, as the listings print it."""
    method = get_method(name)
    return {
        "name": method.name,
        "family": method.family,
        "summary": (method.__doc__ or "").strip().splitlines()[0],
        "paper": {"title": method.paper.title, "reference": method.paper.reference},
        "parameters": method.parameters(),
    }
