"""``expunge methods``, ``suites`` and ``audits``: what there is (the packages have the shorter names)."""

from __future__ import annotations

from typing import Any


def list_methods(name: str | None = None) -> list[dict[str, Any]]:
    """Every method (or the one called ``name``) with family, paper and parameters."""
    from expunge.methods.registry import describe_method, method_names

    return [describe_method(one) for one in ([name] if name else method_names())]


def list_suites(name: str | None = None) -> list[dict[str, Any]]:
    """Every suite (or the one called ``name``) with its paper, options and metrics."""
    from expunge.benchmarks.registry import describe_suite, suite_names

    return [describe_suite(one) for one in ([name] if name else suite_names())]


def list_audits(name: str | None = None) -> list[dict[str, Any]]:
    """Every audit (or the one called ``name``) with its control, options and paper, those that run first first."""
    from expunge.audits.registry import audit_names, describe_audit, get_audit

    names = [name] if name else sorted(audit_names(), key=lambda one: (get_audit(one).order, one))
    return [describe_audit(one) for one in names]
