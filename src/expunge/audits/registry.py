"""Finding audits by name: one file an audit, imported only when asked for; entry points serve outsiders."""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import expunge.audits
from expunge.audits.interface import Audit
from expunge.errors import ConfigError, UnknownNameError, did_you_mean

_GROUP = "expunge.audits"
_NO_AUDITS = {"interface", "registry", "running"}


def audit_names() -> list[str]:
    """All audit names, without importing an audit."""
    return sorted({*_modules(), *_plugins()})


def get_audit(name: str) -> type[Audit]:
    """The class of the audit called ``name``; an unknown name gets a suggestion."""
    modules = _modules()
    if name in modules:
        module = importlib.import_module(modules[name])
        found = [
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, Audit) and value.__module__ == module.__name__
        ]
        if len(found) != 1:
            raise ConfigError(f"{module.__name__} must define one Audit, it defines {len(found)}.")
        return found[0]
    plugins = _plugins()
    if name in plugins:
        loaded: type[Audit] = plugins[name].load()
        return loaded
    raise UnknownNameError(f"there is no audit '{name}'. {did_you_mean(name, audit_names())}")


def make_audit(name: str, values: dict[str, Any] | None = None) -> Audit:
    """An audit with the given options, the rest at their defaults."""
    return get_audit(name).from_values(values or {})


def describe_audit(name: str) -> dict[str, Any]:
    """``name``, ``kind``, ``summary``, ``paper``, ``parameters`` of one audit and its control, for the listings."""
    audit = get_audit(name)
    return {
        "name": audit.name,
        "kind": "audit",
        "summary": (audit.__doc__ or "").strip().splitlines()[0],
        "paper": {"title": audit.paper.title, "reference": audit.paper.reference},
        "parameters": audit.parameters(),
        "control": audit.control,
        "needs_retrained": audit.needs_retrained,
        "by_default": audit.by_default,
        "version": audit.version,
    }


def _modules() -> dict[str, str]:
    package = expunge.audits
    return {
        info.name: f"{package.__name__}.{info.name}"
        for info in pkgutil.iter_modules(package.__path__)
        if info.name not in _NO_AUDITS and not info.ispkg
    }


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=_GROUP)}
