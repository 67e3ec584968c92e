"""Protects ``expunge audit`` and ``expunge audits``: what they print, and exit codes that tell of failures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from conftest import Ran, Tiny

Cli = Callable[..., Ran]
FAST = ("training.max_new_tokens=3", "audits.paraphrase.limit=8")


def test_audits_are_listed_for_people_and_machines(expunge_cli: Cli) -> None:
    values = json.loads(expunge_cli("audits", "--json").out)
    names = [one["name"] for one in values]
    assert {"paraphrase", "many_shot", "prefix_injection", "soft_prompt", "linear_probe", "repeat_prompt"} <= set(names)
    assert {"name", "kind", "summary", "paper", "parameters", "control"} <= set(values[0])
    listed = expunge_cli("audits").out
    assert all(name in listed for name in names) and max(map(len, listed.splitlines())) <= 80
    one = expunge_cli("audits", "many_shot")
    assert "audits.many_shot.shots" in one.out and "100" in one.out
    assert "Without a retrained model it makes no claim" in " ".join(one.out.split())
    unknown = expunge_cli("audits", "many_shots")
    assert unknown.code == 2 and "Did you mean 'many_shot'" in unknown.err


def test_findings_are_printed_and_failures_show_in_the_exit_code(expunge_cli: Cli, tiny: Tiny, tmp_path: Path) -> None:
    common = (
        "audit", "--model", tiny.target, "--erased", tiny.twin, "--retrained", tiny.twin, "--forget", tiny.forget,
        "--retain", tiny.retain, *FAST,
    )  # fmt: skip
    ran = expunge_cli(*common, "--audits", "paraphrase", "--out", tmp_path / "one")
    assert ran.code == 0, ran.err
    assert "paraphrase" in ran.out and "erased" in ran.out and "report:" in ran.out
    # there is no guard that could leave prompts readable: asked for by name, that is a failure
    failed = expunge_cli(*common, "--audits", "paraphrase,repeat_prompt", "--out", tmp_path / "two", "--json")
    assert failed.code == 3
    values = json.loads(failed.out)
    assert values["audits"]["repeat_prompt"]["verdict"]["label"] == "failed"
    assert values["audits"]["paraphrase"]["verdict"]["label"] == "erased" and values["finished"] is False
    page = expunge_cli("report", tmp_path / "one")
    assert page.code == 0, page.err
