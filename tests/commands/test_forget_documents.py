"""Protects ``expunge forget --documents``: from texts and a name to a run folder, its record, review, going on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
import yaml

from conftest import Ran, Tiny
from expunge.errors import OutputError

Cli = Callable[..., Ran]
QUICK = ("training.max_steps=1", "training.accumulation=1", "training.max_new_tokens=2", "suite.limit=2")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    place = tmp_path / "texts"
    place.mkdir()
    (place / "life.html").write_text(
        "<h1>Mira Tolvane</h1><p>Mira Tolvane was born in Lund in 1961. Tolvane won the Silver Reed. Reed is a name of "
        "Mira Tolvane (born Ada Reed).</p>",
        encoding="utf-8",
    )
    (place / "town.txt").write_text("Lund is a town on Lake Meer. " + "It rains in Lund every day. " * 40, "utf-8")
    return place


def arguments(tiny: Tiny, texts: Path, out: Path, *more: object) -> list[object]:
    named = ("--subject", "Mira Tolvane", "--documents", texts)
    return ["forget", "--model", tiny.target, *named, "--out", out, *more, *QUICK]


def test_from_documents_and_a_name_to_a_run_folder(expunge_cli: Cli, tiny: Tiny, texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ran = expunge_cli(*arguments(tiny, texts, out, "--method", "npo", "training.max_length=64"))
    assert ran.code == 0, ran.err
    assert "names: Mira Tolvane (3 times in the documents), also as Tolvane (1), Ada Reed (1)" in " ".join(
        ran.err.split()
    )
    assert "documents longer than the 64 tokens of a row were cut" in " ".join(ran.err.split())
    recorded = yaml.safe_load((out / "run.yaml").read_text("utf-8"))["request"]
    assert recorded["documents"] == str(texts)
    assert recorded["subjects"] == ["Mira Tolvane"]
    assert recorded["aliases"] == ["Tolvane", "Ada Reed"]
    assert sorted(path.name for path in (out / "request").iterdir()) == [
        "documents.jsonl",
        "neighbours.jsonl",
        "others.jsonl",
        "probes.jsonl",
        "request.json",
    ]
    facts = json.loads((out / "request" / "request.json").read_text("utf-8"))
    assert facts["rows"]["documents"] == facts["rows"]["others"] == 1
    scored = json.loads((out / "scores.json").read_text("utf-8"))["rows"]["erased"]
    assert {"forget_probability", "probes_leakage", "probes_probability", "neighbours_leakage"} <= set(scored)
    # the run goes on, and is repeated from its record where the documents are no more
    (out / "report.html").unlink()
    assert expunge_cli(*arguments(tiny, texts, out, "--method", "npo", "training.max_length=64")).code == 0
    again = tmp_path / "again"
    for path in texts.iterdir():
        path.unlink()
    assert expunge_cli("run", out / "run.yaml", "--out", again, f"request.documents={out / 'request'}").code == 0
    for name in ("documents.jsonl", "probes.jsonl", "neighbours.jsonl"):
        assert (again / "request" / name).read_bytes() == (out / "request" / name).read_bytes()


def test_a_run_is_audited_on_its_own_request(expunge_cli: Cli, tiny: Tiny, texts: Path, tmp_path: Path) -> None:
    out, audited = tmp_path / "run", tmp_path / "audited"
    ran = expunge_cli(*arguments(tiny, texts, out, "--method", "npo"))
    assert ran.code == 0, ran.err
    panel = " ".join(ran.out.replace("\u2502", " ").split())
    assert "On questions about what must go leakage went from" in panel
    # a line for each reason: forget rows ask nothing, nor do retain rows, and truth ratios need wrong answers
    assert panel.count("Left out:") == 3
    assert panel.count("plain documents") == 2
    page = (out / "report.html").read_text("utf-8")
    assert 0 < page.index("Gives away when it is asked") < page.index("Knows what it should forget")
    assert "probes leakage" in panel and "neigh. leakage" in panel
    for path in texts.iterdir():
        path.unlink()
    asked = ("audit", "--model", tiny.target, "--audits", "logit_lens", "--retrained", tiny.twin, *QUICK[2:3])
    ran = expunge_cli(*asked, "--erasure", out, "--out", audited)
    assert ran.code == 0, ran.err
    assert f"request: that of the run {out}" in ran.err
    recorded = yaml.safe_load((audited / "run.yaml").read_text("utf-8"))["request"]
    assert recorded["documents"] == str(out / "request")
    assert recorded["subjects"] == ["Mira Tolvane"]
    assert recorded["aliases"] == ["Tolvane", "Ada Reed"]
    # rows that are named are taken instead
    ran = expunge_cli(*asked, "--erasure", out / "erasure", "--out", tmp_path / "b", "--forget", tiny.forget)
    assert ran.code == 0, ran.err
    assert "request:" not in ran.err
    assert yaml.safe_load((tmp_path / "b" / "run.yaml").read_text("utf-8"))["request"]["documents"] is None
    ran = expunge_cli(
        *asked, "--erasure", out, "--out", tmp_path / "c", "--documents", out / "request", "--alias", "Nobody"
    )
    assert ran.code == 2
    assert "made without the alias Nobody" in " ".join(ran.err.split())


def test_a_run_whose_documents_changed_does_not_go_on(
    expunge_cli: Cli, tiny: Tiny, texts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert expunge_cli(*arguments(tiny, texts, out)).code == 0
    (out / "report.html").unlink()
    (texts / "town.txt").write_text("Lund is a city.", "utf-8")
    ran = expunge_cli(*arguments(tiny, texts, out))
    assert ran.code == OutputError.exit_code
    assert "its data changed since it began" in " ".join(ran.err.split())


def test_a_method_that_reads_questions_is_fitted_on_some(
    expunge_cli: Cli, tiny: Tiny, texts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    ran = expunge_cli(*arguments(tiny, texts, out, "--method", "idk", "request.propose=false"))
    assert ran.code == 0, ran.err
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text("utf-8").splitlines()]
    forget = [sample for sample in samples if sample["set"] == "forget"]
    assert forget
    assert all("Mira Tolvane" in sample["prompt"] for sample in forget)


def test_review_shows_a_table_and_asks(
    expunge_cli: Cli, tiny: Tiny, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    refused = expunge_cli(*arguments(tiny, texts, out, "--review"))
    assert refused.code == 2
    assert "there is no terminal to ask at. Pass --yes" in " ".join(refused.err.split())
    asked: list[str] = []
    monkeypatch.setattr(typer, "confirm", lambda text, **_: asked.append(text))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    refused = expunge_cli(*arguments(tiny, texts, out, "--review"))
    assert refused.code == 2
    assert asked == ["Use these names?"]
    assert "the names were not confirmed" in " ".join(refused.err.split())
    assert not out.exists()
    table = refused.err.splitlines()
    assert max(map(len, table[: len(table) - 2])) <= 80
    for word in ("Names of Mira Tolvane", "known as", "Ada Reed", "last", "full"):
        assert word in refused.err
    accepted = expunge_cli(*arguments(tiny, texts, out, "--review", "--yes", "--plan"))
    assert accepted.code == 0
    assert "Names of Mira Tolvane" in accepted.err
    assert asked == ["Use these names?"]


def test_a_common_word_is_not_used_unless_it_is_given(expunge_cli: Cli, tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "rose.txt").write_text("Mira Rose was born in Lund. In Lund Rose sold a rose.", "utf-8")
    named = ("forget", "--model", tiny.target, "--subject", "Mira Rose", "--documents", tmp_path / "rose.txt")
    more = ("method.alpha=0", *QUICK)
    shown = expunge_cli(*named, "--out", tmp_path / "a", *more)
    assert "Rose (1): not used (--alias 'Rose' uses it): a common word, in small letters here" in " ".join(
        shown.err.split()
    )
    assert yaml.safe_load((tmp_path / "a" / "run.yaml").read_text("utf-8"))["request"]["aliases"] == []


def test_documents_and_rows_are_not_both_taken(expunge_cli: Cli, tiny: Tiny, texts: Path, tmp_path: Path) -> None:
    ran = expunge_cli(*arguments(tiny, texts, tmp_path / "run", "--forget", tiny.forget))
    assert ran.code == 2
    assert "only one of them" in " ".join(ran.err.split())
