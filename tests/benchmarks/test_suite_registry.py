"""Protects discovery of suites: every file in benchmarks is one, listings import no torch, unknown ones get a hint."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import expunge.benchmarks
from expunge.benchmarks.registry import describe_suite, get_benchmark, suite_names
from expunge.errors import UnknownNameError


def test_every_file_is_a_suite_of_its_name() -> None:
    stems = {path.stem for path in Path(expunge.benchmarks.__path__[0]).glob("*.py")} - {"__init__", "registry"}
    assert stems == set(suite_names())
    for stem in stems:
        assert get_benchmark(stem).name == stem
        described = json.loads(json.dumps(describe_suite(stem)))
        assert set(described) == {"name", "kind", "summary", "paper", "parameters", "metrics"}
        assert described["parameters"] and described["metrics"]


def test_unknown_suite_gets_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match=r"there is no suite 'tofo'\. Did you mean 'tofu'"):
        get_benchmark("tofo")


def test_listing_loads_no_torch() -> None:
    code = (
        "import sys; from expunge.benchmarks.registry import describe_suite, suite_names;"
        "[describe_suite(name) for name in suite_names()];"
        "print([name for name in ('torch', 'transformers', 'datasets', 'scipy', 'nltk') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
