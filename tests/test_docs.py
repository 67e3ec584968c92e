"""Protects the docs from falling behind the code: every public name, method, metric, setting and verb is in them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import expunge
from expunge.benchmarks.registry import suite_names
from expunge.evaluation.registry import metric_names
from expunge.methods.registry import get_method, method_names
from expunge.training.settings import TrainingSettings

ROOT = Path(__file__).parent.parent
PAGES = {path.name: path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]}
ALL = "\n".join(PAGES.values())


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


@pytest.mark.parametrize("name", [name for name in expunge.__all__ if not name.startswith("__")])
def test_every_public_name_is_in_the_docs(name: str) -> None:
    assert name in _words(ALL)


@pytest.mark.parametrize("name", method_names())
def test_every_method_has_a_row_and_every_field_its_default(name: str) -> None:
    rows = [line for line in PAGES["methods.md"].splitlines() if line.startswith(f"| `{name}` |")]
    assert len(rows) == 1
    for field in get_method(name).parameters():
        assert field["name"] in _words(rows[0]), f"{name}'s field {field['name']} is not in its row"


@pytest.mark.parametrize("name", metric_names())
def test_every_metric_is_explained(name: str) -> None:
    # these two are scored under the keys probability and truth_ratio, whose rows explain both forms
    assert {"choice_probability": "probability", "kept_truth_ratio": "truth_ratio"}.get(name, name) in _words(
        PAGES["metrics.md"]
    )


@pytest.mark.parametrize("name", list(TrainingSettings.model_fields))
def test_every_training_setting_is_listed(name: str) -> None:
    assert f"`{name}`" in PAGES["settings.md"]


@pytest.mark.parametrize("name", suite_names())
def test_every_suite_is_named(name: str) -> None:
    assert f"`{name}`" in ALL


def test_links_between_pages_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"
