"""Finding methods by name: one file a method, imported only when asked for; entry points serve outsiders."""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import expunge.methods.activations
import expunge.methods.inputs
import expunge.methods.weights
from expunge.errors import ConfigError, UnknownNameError, did_you_mean
from expunge.methods.interface import Method

_FAMILIES = (expunge.methods.weights, expunge.methods.activations, expunge.methods.inputs)
_GROUP = "expunge.methods"


def _modules() -> dict[str, str]:
    return {
        info.name: f"{family.__name__}.{info.name}"
        for family in _FAMILIES
        for info in pkgutil.iter_modules(family.__path__)
    }


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=_GROUP)}


def method_names() -> list[str]:
    """All method names, without importing a method."""
    return sorted({*_modules(), *_plugins()})


def get_method(name: str) -> type[Method]:
    """The class of the method called ``name``; an unknown name gets a suggestion."""
    modules = _modules()
    if name in modules:
        module = importlib.import_module(modules[name])
        found = [
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
        ]
        if len(found) != 1:
            raise ConfigError(f"{module.__name__} must define one Method, it defines {len(found)}.")
        return found[0]
    plugins = _plugins()
    if name in plugins:
        loaded: type[Method] = plugins[name].load()
        return loaded
    raise UnknownNameError(f"there is no method '{name}'. {did_you_mean(name, method_names())}")


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
