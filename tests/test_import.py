"""Protects the start: importing the package is quick and loads no heavy library; all of it can be imported."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import subprocess
import sys

import pytest

import expunge

HEAVY = ("torch", "transformers", "pandas", "datasets", "plotly", "scipy", "peft", "accelerate", "sklearn")


def _fresh(code: str) -> str:
    """What a fresh interpreter prints for ``code``."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def _loaded_by(code: str) -> list[str]:
    listed = _fresh(f"{code}\nimport json, sys\nprint(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))")
    found: list[str] = json.loads(listed.splitlines()[-1])
    return found


def test_import_is_quick_and_loads_no_heavy_library() -> None:
    assert _loaded_by("import expunge") == []
    code = "import time\nt = time.perf_counter()\nimport expunge\nprint(time.perf_counter() - t)"
    # It takes 0.02 s; the best of three, so that a busy machine does not count.
    assert min(float(_fresh(code)) for _ in range(3)) < 1


@pytest.mark.parametrize(
    "code",
    [
        "import expunge.pipeline",  # the flow is there to be read; what it runs is loaded when it runs
        "from expunge import Request, Row, TrainingSettings, ExpungeError",
        "from expunge import make_method\nmake_method('npo', {'beta': 0.2})",
        "import expunge.config.run_file as r\nr.make_config({'model': 'm', 'request': 'f.jsonl', 'method': 'npo'})",
        "from expunge.cli.main import app\nfrom typer.testing import CliRunner\nCliRunner().invoke(app, ['--help'])",
        "from expunge.cli.main import app\nfrom typer.testing import CliRunner\nCliRunner().invoke(app, ['methods'])",
        "from expunge.cli.main import app\nfrom typer.testing import CliRunner\nCliRunner().invoke(app, ['suites'])",
    ],
)
def test_settings_and_listings_load_no_heavy_library(code: str) -> None:
    assert _loaded_by(code) == []


def test_every_module_can_be_imported() -> None:
    names = [info.name for info in pkgutil.walk_packages(expunge.__path__, "expunge.")]
    assert len(names) > 50
    for name in names:
        importlib.import_module(name)


def test_public_names_are_there() -> None:
    assert len(expunge.__all__) == len(set(expunge.__all__))
    for name in expunge.__all__:
        assert getattr(expunge, name) is not None, name
        assert name in dir(expunge)
    with pytest.raises(AttributeError, match="no attribute 'forgot'"):
        _ = expunge.forgot


def test_public_names_in_annotations_and_at_run_time_are_the_same() -> None:
    """The names that type checkers see are those that are imported on first use."""
    block = inspect.getsource(expunge).split("if TYPE_CHECKING:")[1].split("_PUBLIC")[0]
    lists = [line.split(" import ")[1] for line in block.splitlines() if " import " in line]
    seen = {name.strip() for names in lists for name in names.split(",")}
    assert seen == set(expunge.__all__) - {"__version__"}
