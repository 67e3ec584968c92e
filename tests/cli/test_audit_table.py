"""Protects what ``expunge audit`` prints: what must be known first, and nothing wider than 80 columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from expunge.audits.registry import audit_names
from expunge.audits.running import Findings
from expunge.cli.audit import show_findings


def found(label: str, sentence: str) -> dict[str, Any]:
    return {"verdict": {"label": label, "sentence": sentence}}


def test_findings_fit_80_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    words = "Trained on 20 other rows the knowledge comes back " * 5
    audits = {name: found("comes back", words) for name in audit_names()}
    audits["patching"] = found("failed", "unreadable: " + "a" * 90 + "/[bold]model[/bold]")
    show_findings(
        Findings(audits, {"linear_probe": "there are no options " * 6}, "With the hook lifted it is there. " * 4),
        Path("runs/npo-audit"),
    )
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    said = " ".join(" ".join(lines).split())
    assert said.startswith("With the hook lifted it is there.") and said.endswith("runs/npo-audit/report.html")
    assert all(name in said for name in audit_names()) and "linear_probe left out: there are no options" in said
    # a word that is longer than its column is broken and not cut; brackets are text
    letters = "".join("".join(lines).split())
    assert "/[bold]model[/bold]" in letters and sum(line.count("aaaa") > 0 for line in lines) > 1


def test_the_summary_is_first_and_what_waits_has_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    audits = {"patching": found("erased", "Nothing is there."), "membership": found("leaks", "It is told.")}
    left_out = {"linear_probe": "there are no options", "many_shot": "no time", "paraphrase": "no time"}
    show_findings(Findings(audits, left_out, waiting=["many_shot", "paraphrase"]), Path("runs/audit"))
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith(
        "Of 2 audits: leaks in 1 (membership); erased in 1 (patching). Left out: linear probe. Still to come: many "
        "shot, paraphrase."
    )
    assert "linear_probe left out: there are no options" in said and "many_shot left out" not in said
    assert "2 audits had no time left (--budget): many_shot, paraphrase. The same command goes on with them." in said
    show_findings(Findings(waiting=["many_shot"]), Path("runs/audit"))
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("No audit has run yet. Still to come: many shot. 1 audit had no time left (--budget): many_")
    assert "goes on with it." in said
