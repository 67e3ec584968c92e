"""expunge: remove chosen knowledge from language models, and measure how deep the removal goes.

Everything public is imported on first use, so that ``import expunge`` loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# ruff: noqa: F401 - for type checkers; at run time each name is imported on first use
if TYPE_CHECKING:
    from expunge.commands.audit import audit
    from expunge.commands.demo import demo
    from expunge.commands.evaluate import evaluate
    from expunge.commands.export import export
    from expunge.commands.forget import forget, run
    from expunge.commands.listings import list_audits, list_methods, list_suites
    from expunge.commands.negate import negate
    from expunge.commands.plan import plan
    from expunge.commands.probe import probe
    from expunge.commands.recheck import recheck
    from expunge.commands.train import train
    from expunge.errors import ExpungeError
    from expunge.methods.interface import Erasure, Method
    from expunge.methods.registry import get_method, make_method
    from expunge.models.loading import load_model, load_tokenizer
    from expunge.reports import report
    from expunge.requests import Request, Row
    from expunge.training.run import Run
    from expunge.training.settings import TrainingSettings
    from expunge.worlds.interface import get_world

_PUBLIC = {
    "Erasure": "expunge.methods.interface",
    "ExpungeError": "expunge.errors",
    "Method": "expunge.methods.interface",
    "Request": "expunge.requests",
    "Row": "expunge.requests",
    "Run": "expunge.training.run",
    "TrainingSettings": "expunge.training.settings",
    "audit": "expunge.commands.audit",
    "demo": "expunge.commands.demo",
    "evaluate": "expunge.commands.evaluate",
    "export": "expunge.commands.export",
    "forget": "expunge.commands.forget",
    "get_method": "expunge.methods.registry",
    "get_world": "expunge.worlds.interface",
    "load_model": "expunge.models.loading",
    "load_tokenizer": "expunge.models.loading",
    "make_method": "expunge.methods.registry",
    "list_audits": "expunge.commands.listings",
    "list_methods": "expunge.commands.listings",
    "negate": "expunge.commands.negate",
    "plan": "expunge.commands.plan",
    "probe": "expunge.commands.probe",
    "recheck": "expunge.commands.recheck",
    "report": "expunge.reports",
    "run": "expunge.commands.forget",
    "list_suites": "expunge.commands.listings",
    "train": "expunge.commands.train",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'expunge' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
