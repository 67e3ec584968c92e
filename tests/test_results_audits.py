"""Protects the page of what audits find in world authors: every component counts, and the page is what was measured."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.audit_results")


def one(**heat: Any) -> dict[str, Any]:
    return {"audits": {"restoration": {"heat": {"erased": heat}}}}


def test_the_most_that_was_put_back_is_of_all_components(results: Any) -> None:
    cells = {
        "values": [[0, 0.04, 0.0, 0.1], [1, 0.02, 0.0, 0.1]],
        "keys": [[0, -0.3, -0.4, 0.0], [1, 0.1, 0.0, 0.2]],
        "attention": [[0, 0.324, 0.3, 0.35], [1, None, None, None]],
    }
    assert results.most(one(**cells), "restoration") == "0.32 (attention parameters, layer 0)"
    del cells["attention"]
    assert results.most(one(**cells), "restoration") == "0.10 (MLP gates and first projections, layer 1)"
    assert results.most(one(values=[[0, None, None, None]]), "restoration") == "undefined"


def test_the_figure_has_every_component_of_both_audits_and_the_retrained_model(
    results: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(results, "paths", lambda _path, _axes, panels, _aim: drawn.append(panels))
    heat = [[0, 0.6, 0.5, 0.7], [1, None, None, None], [2, -0.3, -0.4, -0.2]]
    control = [[0, 0.1, 0.0, 0.2], [2, 0.2, 0.1, 0.3]]
    parts = {"patching": ("mlp", "attention", "both"), "restoration": ("values", "keys", "attention")}
    audits = {
        audit: {"heat": {"erased": dict.fromkeys(names, heat), "retrained": dict.fromkeys(names, control)}}
        for audit, names in parts.items()
    }
    results.figure({name: {"audits": audits} for name in results.METHODS})
    (panels,) = drawn
    assert list(panels) == [
        "MLP keys",
        "attention outputs",
        "MLP keys and attention outputs",
        "value vectors",
        "MLP gates and first projections",
        "attention parameters",
    ]
    # layer 0 of 0 to 2 stands at 0 / 2 and layer 2 at 2 / 2; what is undefined has no point, what is below 0 lies at 0
    assert {tuple(lines[name]) for lines in panels.values() for name in results.METHODS} == {((0.0, 0.6), (1.0, 0.0))}
    assert all(lines["retrained"] == [(0.0, 0.1), (1.0, 0.2)] for lines in panels.values())


def test_the_page_is_what_was_measured(results: Any) -> None:
    found = json.loads(results.FILE.read_text())["result"]
    written = results.PAGE.read_text()
    assert written == results.page(found)
    # by the scores: no component of restoration brings back more than the column says
    for name in results.METHODS:
        (row,) = [line for line in written.splitlines() if re.match(rf"\| {name} \| [\d.]+ \|", line)]
        heat = found[name]["audits"]["restoration"]["heat"]["erased"]
        top = max(cell[1] for cells in heat.values() for cell in cells if cell[1] is not None)
        assert row.split(" | ")[5].startswith(f"{top:.2f} (")
