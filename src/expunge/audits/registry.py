"""Finding audits by name: one file an audit, imported only when asked for; entry points serve outsiders."""

from __future__ import annotations

from typing import Any

import expunge.audits
from expunge.audits.interface import Audit
from expunge.named_classes import NamedClasses

_AUDITS = NamedClasses[Audit](
    Audit,  # type: ignore[type-abstract]
    (expunge.audits,),
    "expunge.audits",
    "audit",
    besides={"interface", "registry", "running"},
)


def audit_names() -> list[str]:
    """All audit names, without importing an audit."""
    return _AUDITS.names()


def get_audit(name: str) -> type[Audit]:
    """The class of the audit called ``name``; an unknown name gets a suggestion."""
    return _AUDITS.get(name)


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
