"""Protects a probe's page: complete in itself, every figure in a table too, and names from outside stay text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from expunge.errors import OutputError
from expunge.reports.probe_page import chance_in_words, lede, write_probe_page
from expunge.reports.probe_terminal import layers_table
from made_probes import drawn_facts

from .test_page import HOSTILE, Page


def page_of(facts: dict[str, Any], folder: Path) -> Page:
    write_probe_page(folder / "probe.html", facts)
    return Page(folder / "probe.html")


def test_every_part_is_there(tmp_path: Path) -> None:
    facts = drawn_facts(layers=3, roles=("mlp_activation", "residual"))
    page = page_of(facts, tmp_path)
    charts = [attributes["data-chart"] for _, attributes in page.elements if attributes.get("role") == "img"]
    assert charts == ["share", "distance", "top", "heat", "heat", *["density"] * 12]
    assert "40 forget, 400 retain (3 cut at 512 tokens)" in page.text
    assert "the last token of the prompt" in page.text
    assert "Constant neurons" in page.text  # the last neuron never varies
    for layer in facts["layers"]:
        assert f"layer {layer['layer']} 30" in page.text
    assert [len(role["layers"]) for role in page.data["roles"]] == [3, 3]
    assert [attributes.get("id") for tag, attributes in page.elements if tag == "section"] == [
        *("layers", "neurons", "densities", "settings")
    ]


def test_it_asks_for_nothing(tmp_path: Path) -> None:
    page = page_of(drawn_facts(), tmp_path)
    loads = [
        value
        for tag, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "srcset", "data", "action", "poster") or (name == "href" and tag != "a")
    ]
    assert loads == ["data:,"]
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'; script-src 'sha256-")
    assert policy.split(";")[1].count("'sha256-") == len(page.scripts) - 1 == 4


def test_names_from_outside_stay_text(tmp_path: Path) -> None:
    facts = drawn_facts(name=HOSTILE, roles=(HOSTILE,))
    figures = {"share": 0.25, "largest": -1.5, "by_chance": 0.1}
    facts["groups"] = [
        {"name": HOSTILE, "rows": 7, "roles": [{"role": HOSTILE, **figures}]},
        {"name": "\ud800", "rows": 1, "left_out": HOSTILE},
    ]
    page = page_of(facts, tmp_path)
    assert len(page.scripts) == 5
    assert "img" not in [tag for tag, _ in page.elements]
    assert "<img src=x" not in (tmp_path / "probe.html").read_text(encoding="utf-8")
    assert page.data["roles"][0]["role"] == HOSTILE
    assert "7 rows" in page.text and "25%" in page.text and "-1.50" in page.text


def test_the_first_sentence_compares_with_chance() -> None:
    facts = drawn_facts(layers=2, width=28)
    role = facts["roles"][0]
    role |= {"share": 0.25, "by_chance": 0.02}
    facts["layers"][0]["share"], facts["layers"][1]["share"] = 0.1, 0.4
    assert lede(facts) == (
        "25% of the 56 neurons at mlp_activation are more than 0.5 standard deviations apart, against 2.0% by chance; "
        "layer 1 has the largest share (40%)."
    )
    role |= {"share": 0.01}
    assert "1.0% of the 56 neurons" in lede(facts) and "no more than the 2.0% by chance" in lede(facts)
    assert chance_in_words(facts).startswith("About 2.0% would be by chance")
    facts["scope"]["pooling"] = "all"
    assert chance_in_words(facts).startswith("At most about 2.0%")
    role["by_chance"] = None
    assert chance_in_words(facts) == "" and "chance" not in lede(facts)


def test_many_layers_are_cut_in_the_terminal_and_say_so() -> None:
    facts = drawn_facts(layers=40, width=10)
    table = layers_table(facts, "mlp_activation")
    assert table.row_count == 32
    assert table.caption == "8 layers with smaller shares are in probe.json and on the page."
    few = drawn_facts(layers=3, width=10)
    assert (layers_table(few, "mlp_activation").row_count, layers_table(few, "mlp_activation").caption) == (3, None)


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_probe_page(tmp_path / "no" / "probe.html", drawn_facts())
