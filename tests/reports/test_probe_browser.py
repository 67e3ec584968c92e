"""Protects a probe's page as a browser shows it: every chart drawn, no error, no request, nothing wider than it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from expunge.reports.probe_page import write_probe_page
from made_probes import drawn_facts

from .devtools import Browser, chromium
from .test_browser import PROGRAM, VISIT_CHARTS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium on PATH"),
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("probes")
    made = {
        "one": drawn_facts(),
        "two": drawn_facts(layers=40, roles=("mlp_activation", "residual")),
        # one neuron that varies in each layer: fewer neurons than there is room for
        "small": drawn_facts(layers=1, width=2),
    }
    for name, facts in made.items():
        write_probe_page(root / f"{name}.html", facts)
    return {name: root / f"{name}.html" for name in made}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert PROGRAM is not None
    with chromium(PROGRAM, tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", ["one", "two", "small"])
def test_the_page_is_whole(pages: dict[str, Path], browser: Browser, name: str, width: int, dark: bool) -> None:
    address = pages[name].as_uri()
    browser.open(address, width=width, dark=dark)
    assert browser.run(VISIT_CHARTS) == 0, "every chart is drawn"
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    assert browser.complaints() == []
    # a heat map is drawn as an image that is made in the page
    assert [found for found in browser.requests() if not found.startswith("data:image/png")] == [address]


def test_the_densities_follow_their_switch(pages: dict[str, Path], browser: Browser) -> None:
    facts = drawn_facts()["roles"][0]
    names = [[f"layer {one['layer']}, neuron {one['neuron']}" for one in facts[by]] for by in ("furthest", "highest")]
    assert names[0][:3] != names[1][:3]
    # 3 of 90 neurons are the top 3%, so that three of the six figures have nothing to show then
    captions = """Array.from(document.querySelectorAll("#densities figure:not([hidden]) figcaption"))
        .map(node => node.textContent)"""
    browser.open(pages["one"].as_uri(), width=1280)
    browser.run(VISIT_CHARTS)
    assert browser.run(captions) == names[0][:6]
    browser.run("document.querySelector('input[value=highest]').click()")
    assert browser.run(captions) == names[1][:3]
    browser.run("document.querySelector('input[value=furthest]').click()")
    assert browser.run(captions) == names[0][:6]
    assert browser.complaints() == []
