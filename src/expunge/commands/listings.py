"""``expunge methods`` and ``expunge suites``: what there is (the package ``expunge.methods`` has the shorter name)."""

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
