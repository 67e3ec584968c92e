"""Protects the report page: every part is there, it loads nothing from elsewhere, and hostile text stays
text."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from expunge.errors import OutputError
from expunge.reports import ReportError, load_runs, report
from expunge.reports.groups import group_runs
from expunge.reports.payload import to_script, truth_ratios

from .fake_runs import audits, samples, scores, settings, write_json, write_lines, write_run

HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(2)"><!-- \u2028 & {{ 7*7 }}'


class Page(HTMLParser):
    """The page as a browser splits it: elements with attributes, visible text, the contents of scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.open.append(tag)
            if tag == "script":
                self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open:
            self.words.append(data)
        elif self.open[-1] == "script":
            self.scripts[-1] += data

    @property
    def data(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.scripts[0])
        return parsed


def test_the_page_holds_every_part(comparison: Path) -> None:
    path = report(comparison)
    assert path == comparison / "report.html"
    page = Page(path)
    for words in (
        "npo cannot be told apart from a model that never saw the data; grad_diff goes too far;",
        "grad_ascent is broken.",
        "Over-unlearned".lower(),
        "Removal. The weights themselves were changed",
        "What this rests on",
        "The median truth ratio, 19.0, lies beyond the retrained model's 1.25.",
        "Forget quality (p)",
        "Forget leakage the request names no subjects",
        "method.beta",
        "transformers",
        "3c" * 32,
    ):
        assert words in page.text, words
    identifiers = {attributes.get("id") for _, attributes in page.elements}
    assert {"verdict", "scores", "tradeoff", "truth", "training", "answers", "settings"} <= identifiers
    assert "audits" not in identifiers
    assert ("html", {"lang": "en"}) in page.elements
    tags = [tag for tag, _ in page.elements]
    assert {"header", "nav", "main", "footer"} <= set(tags)
    assert all("scope" in attributes for tag, attributes in page.elements if tag == "th")
    charts = [a for _, a in page.elements if "chart" in (a.get("class") or "").split()]
    # One trade-off, one truth ratio, two scored curves, a loss for each of three runs.
    assert len(charts) == 7 and all(a["role"] == "img" and a["aria-label"] for a in charts)


def changed_verdict(folder: Path, **changes: Any) -> Path:
    """A finished run whose verdict says something else."""
    write_run(folder)
    scores = json.loads((folder / "scores.json").read_text())
    scores["verdict"] |= changes
    write_json(folder / "scores.json", scores)
    return folder


def test_a_harmful_copy_is_not_titled_as_an_unlearning(tmp_path: Path) -> None:
    made = changed_verdict(tmp_path / "run", label="harmful copy, not an erasure", effect="harmful copy")
    page = Page(report(made))
    assert "Harmful copy by npo, not an erasure" in page.text
    assert "Unlearning with" not in page.text
    assert "Removal." not in page.text
    assert "The weights were changed toward the forget rows on purpose" in page.text


def test_a_verdict_over_greedy_answers_alone_says_so(tmp_path: Path) -> None:
    changed_verdict(tmp_path / "all" / "safe", evidence={"harmful_harmful_rate_n": 200})
    changed_verdict(tmp_path / "all" / "other", label="still knows the answers")
    text = Page(report(tmp_path / "all")).text
    assert "safe cannot be told apart, by its greedy answers, from a model that never saw the data;" in text
    assert "other still knows the harmful answers." in text
    assert "indistinguishable from never trained, by its greedy answers" in text


def test_scores_stand_between_their_controls_with_errors_and_n(comparison: Path) -> None:
    html = report(comparison).read_text()
    head = re.search(r'<table class="scores">\s*<thead>(.*?)</thead>', html, re.S)
    assert head is not None
    columns = re.findall(r"<th[^>]*>(?:<i[^>]*></i>)?([^<]+)</th>", head[1])
    assert columns == ["Metric", "Target", "grad_ascent", "grad_diff", "npo", "Retrained"]
    # sqrt(.921 * .079 / 40) * .4 = .01706
    assert re.search(r'title="value 0.921000, standard error 0.017, n = 40, metric version 1">0.921<span', html)
    assert "±0.017" in html
    # Forget quality compares with the retrained model, which therefore has none itself.
    assert '<span class="sr">not measured</span>' in html


def test_the_data_merges_runs_row_by_row(comparison: Path) -> None:
    data = Page(report(comparison)).data
    assert [run["name"] for run in data["runs"]] == ["grad_ascent", "grad_diff", "npo"]
    assert len(data["examples"]) == 124 and len(data["groups"]) == 1
    first = data["examples"][0]
    assert set(first["erased"]) == {"0", "1", "2"} and set(first["controls"]) == {"target", "retrained"}
    assert [p["name"] for p in data["groups"][0]["points"]] == [
        "Target",
        "Retrained",
        "grad_ascent",
        "grad_diff",
        "npo",
    ]
    assert [len(p["values"]) for p in data["groups"][0]["truth"]] == [40] * 5


def test_runs_with_other_controls_are_kept_apart(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "npo")
    write_run(tmp_path / "b", "grad_diff", retrained=False)
    page = Page(report([tmp_path / "a", tmp_path / "b"], out=tmp_path / "page.html"))
    assert [[p["name"] for p in g["points"]] for g in page.data["groups"]] == [
        ["Target", "Retrained", "npo"],
        ["Target", "grad_diff"],
    ]
    assert "Forget quality (p) needs a retrained model: pass --retrained" in page.text
    # No retrained answer may stand beside a run that had no retrained model.
    assert all(len(example["erased"]) == 1 for example in page.data["examples"])


def test_several_seeds_show_their_range_and_every_curve(seeds: Path) -> None:
    page = Page(report(seeds))
    assert "median of 5 seeds" in page.text
    assert "0.580 to 0.920" in page.text
    assert len(page.data["training"][0]["series"]) == 5
    erased = page.data["groups"][0]["points"][-1]
    assert len(erased["seeds"]) == 5 and erased["metrics"]["forget_probability"]["max"] == pytest.approx(0.0021)


def test_audits_have_their_tables(run_folder: Path) -> None:
    write_json(run_folder / "audits.json", audits())
    page = Page(report(run_folder))
    assert "It relearns no faster than the retrained model." in page.text
    assert "steps_to_recover 50" in page.text and "Quantization" in page.text


def test_a_folder_of_audits_alone_makes_a_page(tmp_path: Path) -> None:
    write_json(tmp_path / "audits.json", audits())
    assert "It relearns no faster" in Page(report(tmp_path)).text


def test_an_evaluation_without_training_or_samples_makes_a_page(tmp_path: Path) -> None:
    write_json(tmp_path / "scores.json", scores())
    page = Page(report(tmp_path))
    assert "Not in this folder: samples.jsonl, environment.json, run.yaml." in page.text
    assert not {"training", "answers", "truth"} & {attributes.get("id") for _, attributes in page.elements}


def test_the_page_asks_for_nothing(comparison: Path) -> None:
    page = Page(report(comparison))
    loads = [
        value
        for tag, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "srcset", "data", "action", "poster") or (name == "href" and tag != "a")
    ]
    assert loads == ["data:,"]
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'; script-src 'sha256-")
    script_rule = policy.split(";")[1]
    assert "unsafe" not in script_rule and script_rule.count("'sha256-") == len(page.scripts) - 1


def test_hostile_text_stays_text(run_folder: Path) -> None:
    rows = samples()
    rows[0]["prompt"] = rows[0]["expected"] = HOSTILE
    rows[0]["answers"] = {"target": HOSTILE, "erased": "\ud800 half a pair", "retrained": HOSTILE}
    write_lines(run_folder / "samples.jsonl", rows)
    hostile = scores()
    hostile["verdict"] |= {
        "sentence": HOSTILE,
        "reasons": [HOSTILE],
        "left_out": {HOSTILE: HOSTILE},
        "label": HOSTILE,
    }
    hostile["rows"]["erased"][HOSTILE] = {"value": 0.5, "stderr": None, "n": 1, "version": 1}
    write_json(run_folder / "scores.json", hostile)
    plan = settings()
    plan["method"] = {"name": HOSTILE, HOSTILE: HOSTILE}
    write_json(run_folder / "run.yaml", plan)
    path = report(run_folder, title=HOSTILE)
    page = Page(path)
    # The data and the seven scripts of the page itself, no image, no handler.
    assert len(page.scripts) == 8
    assert "img" not in [tag for tag, _ in page.elements]
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert page.data["examples"][0]["prompt"] == HOSTILE
    assert page.data["examples"][0]["erased"]["0"]["text"] == "? half a pair"
    assert "<img src=x" not in path.read_text(encoding="utf-8") and "{{ 7*7 }}" in page.text


def test_json_in_a_script_is_inert() -> None:
    text = to_script({"a": HOSTILE, "b": "\u2029"})
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {"a": HOSTILE, "b": "\u2029"}


def test_numbers_that_json_does_not_know_are_left_out_and_counted(run_folder: Path) -> None:
    rows = samples()
    for row, ratio in zip(rows, (float("inf"), float("nan"), 0.0), strict=False):
        row["scores"]["erased"]["truth_ratio"] = ratio
    write_lines(run_folder / "samples.jsonl", rows)
    runs = load_runs([run_folder])
    drawn = {part["name"]: part for part in truth_ratios(group_runs(runs)[0], runs)}
    assert (len(drawn["npo"]["values"]), drawn["npo"]["left_out"]) == (37, 3)
    assert "3 ratios that are zero or not finite" in Page(report(run_folder)).text


def test_seven_hundred_rows_of_three_runs_stay_small(tmp_path: Path) -> None:
    from plotly.offline import get_plotlyjs

    from .fake_runs import write_comparison

    size = report(write_comparison(tmp_path, times=6)).stat().st_size - len(get_plotlyjs().encode())
    assert size < 2_000_000


def test_where_the_page_goes(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / method, method) for method in ("npo", "grad_diff")]
    with pytest.raises(ReportError, match="2 folders were given and no place for the page"):
        report(folders)
    assert report(folders, out=tmp_path) == tmp_path / "report.html"
    with pytest.raises(ReportError, match="No folder was given"):
        report([])
    with pytest.raises(ReportError, match="There is no folder"):
        report([folders[0], tmp_path / "absent"], out=tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()


def test_a_failed_write_leaves_the_old_page(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run_folder / "report.html"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="No space left on device"):
        report(run_folder)
    assert path.read_text() == "old"
    assert not list(run_folder.glob(".report.html*"))


def test_a_page_cannot_go_into_a_missing_folder(run_folder: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        report(run_folder, out=run_folder / "no" / "page.html")


def test_importing_reports_is_light() -> None:
    heavy = "{'torch', 'transformers', 'datasets', 'pandas', 'plotly', 'jinja2', 'rich'}"
    code = f"import sys, expunge.reports, expunge.reports.terminal; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
