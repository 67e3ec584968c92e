"""Finding suites by name: one file a benchmark, imported only when asked for; entry points serve
outsiders."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import expunge.benchmarks
from expunge.errors import ConfigError, UnknownNameError, did_you_mean
from expunge.evaluation.registry import get_metric
from expunge.evaluation.suite import Suite

_GROUP = "expunge.suites"
_SELF = __name__.rpartition(".")[2]


@dataclass(frozen=True)
class Benchmark:
    """What a file in ``benchmarks/`` exposes as ``BENCHMARK``: how to build its suite. ``metrics`` names
    every metric a suite of it can have; the keyword parameters of ``build`` are its options. ``leading`` are the scores
    that a short table begins with, those that the suite is for."""

    name: str
    summary: str
    title: str
    reference: str
    metrics: tuple[str, ...]
    build: Callable[..., Suite]
    leading: tuple[str, ...] = ()

    def parameters(self) -> list[dict[str, Any]]:
        """Name, type, default of what ``build`` takes."""
        found = []
        for name, parameter in inspect.signature(self.build).parameters.items():
            required = parameter.default is parameter.empty
            found.append(
                {
                    "name": name,
                    "type": str(parameter.annotation),
                    "default": None if required else parameter.default,
                    "required": required,
                }
            )
        return found


def suite_names() -> list[str]:
    """All suite names, without importing a benchmark."""
    return sorted({*_modules(), *_plugins()})


def get_benchmark(name: str) -> Benchmark:
    """The benchmark called ``name``; an unknown name gets a suggestion."""
    modules = _modules()
    if name in modules:
        found = getattr(importlib.import_module(modules[name]), "BENCHMARK", None)
    elif name in (plugins := _plugins()):
        found = plugins[name].load()
    else:
        raise UnknownNameError(f"there is no suite '{name}'. {did_you_mean(name, suite_names())}")
    if not isinstance(found, Benchmark):
        raise ConfigError(f"suite '{name}' must set BENCHMARK to a Benchmark, it is {type(found).__name__}.")
    return found


def describe_suite(name: str) -> dict[str, Any]:
    """``name``, ``kind``, ``summary``, ``paper``, ``parameters`` and ``metrics`` of one suite, as the
    listings print it."""
    benchmark = get_benchmark(name)
    return {
        "name": benchmark.name,
        "kind": "suite",
        "summary": benchmark.summary,
        "paper": {"title": benchmark.title, "reference": benchmark.reference},
        "parameters": benchmark.parameters(),
        "metrics": [get_metric(one).describe() for one in benchmark.metrics],
    }


def _modules() -> dict[str, str]:
    package = expunge.benchmarks
    return {
        info.name: f"{package.__name__}.{info.name}"
        for info in pkgutil.iter_modules(package.__path__)
        if info.name != _SELF
    }


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=_GROUP)}
