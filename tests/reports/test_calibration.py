"""Protects what a report says of an erasure's calibration: tables, words and what is drawn, found by keys alone."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from expunge.reports import load_run, report
from expunge.reports.calibration import ModeBounds, bounds, detection, drawn, summary
from expunge.reports.numbers import percent_at_least, percent_at_most

from .fake_calibration import bound, calibrated, curve, details, drawn_details, write_calibrated, write_erasure
from .fake_runs import write_comparison, write_run, write_seeds
from .test_page import Page


def rows(mode: ModeBounds) -> list[tuple[str, ...]]:
    return [(one.name, one.rows, one.bound, one.observed, one.upper, one.scale) for one in mode.rows]


def test_the_table_says_what_was_asked_what_decided_and_what_holds() -> None:
    generation, scoring = bounds(details())
    assert (generation.title, generation.level) == ("In generation", "5%")
    # h is 6, of k* = 8
    assert (generation.scale, generation.decided) == ("6.00 (0.750 k*)", "the group “code”")
    # 4 / 81 is 0.04938 and 2 / 41 is 0.04878, rounded up 5.0% and 4.9%; one of 80 rows is 1.25%
    assert rows(generation) == [
        ("All rows", "80", "5.0%", "1.2%", "11.4%", "7.50"),
        ("code", "40", "4.9%", "2.5%", "11.4%", "6.00"),
        ("maths", "40", "4.9%", "0%", "11.4%", "9.00"),
    ]
    assert [one.decides for one in generation.rows] == [False, True, False]
    assert (scoring.title, scoring.scale, scoring.decided) == ("In scoring", "8.00 (1.00 k*)", "the cap of 1 k*")
    assert [one.decides for one in scoring.rows] == [False]


def test_all_rows_may_decide_and_k_star_may_be_nothing() -> None:
    entry = calibrated(0.5, "", bound("", 19, 1, 0.0, 0.14587, 0.5)) | {"k_star": 0.0}
    (mode,) = bounds({"calibration": {"generate": entry}})
    assert (mode.scale, mode.decided, mode.rows[0].decides) == ("0.500", "all rows", True)


def test_limits_are_rounded_to_the_safe_side() -> None:
    assert [percent_at_most(share) for share in (0.0, 0.01, 0.0164, 0.29, 1.0)] == [
        "0.0%",
        "1.0%",
        "1.7%",
        "29.0%",  # 100 times 0.29 is more than 29 in binary
        "100.0%",
    ]
    assert [percent_at_least(share) for share in (0.0, 0.29, 0.979, 1.0)] == ["0%", "29%", "97%", "100%"]


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        (4.0, "at least 0% of 40 unseen forget rows"),  # between 0 with none and 5 with 39 of 40
        (5.0, "98% of 40 unseen forget rows"),  # at a point of the curve: 39 of 40, which is 97.5%
        (6.0, "at least 97% of 40 unseen forget rows"),  # 39 of 40, or with the next point all
        (7.5, "100% of 40 unseen forget rows"),  # all at 7 and all at 9
        (12.0, "100% of 40 unseen forget rows"),  # beyond the last point nothing is left to detect
    ],
)
def test_detection_is_read_off_the_curve_of_the_layers_in_use(scale: float, words: str) -> None:
    found = detection(details() | {"scales": {"generate": scale}})
    assert found is not None
    assert found.words == words


def test_detection_is_not_guessed() -> None:
    assert detection(details() | {"layers": [1, 2]}) is None  # no curve is of these two
    assert detection(details() | {"scales": {}}) is None
    other = detection(details() | {"layers": [1]})
    assert other is not None
    assert other.words == "at least 75% of 40 unseen forget rows"
    # as many rows as the hypercube was made of may be just those
    seen = detection(details() | {"forget_rows": 40})
    assert seen is not None
    assert seen.words == "at least 97% of 40 forget rows"


def test_what_is_drawn() -> None:
    found = drawn(details())
    assert found is not None
    assert [(one["name"], one["used"], one["area"]) for one in found["curves"]] == [
        ("all layers", True, 0.9688),
        ("layer 0", False, 0.9688),
        ("layer 1", False, 0.9688),
    ]
    first = found["curves"][0]
    assert (first["detected"], first["falsely"]) == ([0.0, 0.975, 1.0, 1.0], [0.0, 0.0, 0.05, 1.0])
    assert first["by_group"] == {"code": [0.0, 0.0, 0.1, 1.0], "maths": [0.0, 0.0, 0.0, 1.0]}
    # h = 6 lies after the point with 39 of 40 forget rows; one of 80 calibration rows was detected
    assert (found["level"], found["scale"], found["mark"]) == (0.05, 6.0, {"falsely": 0.0125, "detected": 0.975})
    assert [(one["layer"], one["mean"], one["largest"], one["k_star"], one["volume"]) for one in found["boxes"]] == [
        (0, 2.0, 12.0, 8.0, 1.25),
        (1, 3.0, 18.0, 7.875, 1.125),
    ]
    json.dumps(found, allow_nan=False)


def test_neurons_are_in_the_order_of_the_layers_with_those_that_have_none() -> None:
    found = drawn({"neurons": {"outside the layers": 4, "10": 1, "2": 340}})
    assert found is not None
    expected = [(str(layer), {2: 340, 10: 1}.get(layer, 0)) for layer in range(11)] + [("outside the layers", 4)]
    assert [(one["name"], one["count"]) for one in found["neurons"]] == expected


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"calibration": {}, "neurons": {}, "curves": [], "boxes": []},
        {"calibration": 0.5, "neurons": 7, "curves": "none", "boxes": {"a": 1}, "layers": 3, "scales": [1]},
        {"calibration": {"generate": {"scale": 1.0}}, "neurons": {"0": "many"}, "curves": [{"layers": [0]}]},
        {"calibration": {"generate": {**calibrated(1.0, None), "bounds": [{"group": ""}]}}, "boxes": [{"layer": 0}]},
        {"curves": [curve([0], (0.0, 0.0, 0.0)) | {"detection": [0.0, 1.0]}, curve([1], (0.0, 0.0, 0.0))]},
    ],
)
def test_what_another_method_keeps_under_these_keys_is_left_alone(tmp_path: Path, facts: dict[str, Any]) -> None:
    assert (bounds(facts), drawn(facts), detection(facts)) == ((), None, None)
    folder = write_calibrated(tmp_path / "run", facts)
    page = Page(report(folder))
    assert page.data["erasures"] == []
    assert not {"calibration", "neurons"} & {attributes.get("id") for _, attributes in page.elements}
    assert summary(load_run(folder)) == ""


def test_the_page_shows_table_words_and_figures(tmp_path: Path) -> None:
    page = Page(report(write_calibrated(tmp_path / "run")))
    for said in (
        "In generation: at most 5% asked for; h = 6.00 (0.750 k*), decided by the group “code”",
        "In scoring: at most 5% asked for; h = 8.00 (1.00 k*), decided by the cap of 1 k*",
        "Looked at: all layers. In generation, this h detects at least 97% of 40 unseen forget rows.",
        "ten of them on one model may falsely detect ten times as much",
        "Measured on 40 forget rows and 80 retain rows.",
    ):
        assert said in page.text
    charts = [a.get("data-chart") for _, a in page.elements if "chart" in (a.get("class") or "").split()]
    assert [name for name in charts if name in ("abstention", "boxDistance", "boxVolume", "chosen")] == [
        "abstention",
        "boxDistance",
        "boxVolume",
    ]
    # what is drawn is not among the settings as well
    assert "details.calibration.generate.scale" in page.text and "details.curves" not in page.text


def test_what_is_drawn_may_be_in_the_manifest_itself(tmp_path: Path) -> None:
    apart, within = (Page(report(write_calibrated(tmp_path / str(one), apart=one))) for one in (True, False))
    assert apart.data["erasures"] == within.data["erasures"] != []
    assert "details.curves" not in within.text


def test_one_box_is_a_row_of_numbers_and_a_size_set_by_hand_promises_nothing(tmp_path: Path) -> None:
    facts = details() | {"layers": [1], "calibration": {}, "boxes": details()["boxes"][1:]}
    page = Page(report(write_calibrated(tmp_path / "run", facts)))
    assert "h = 6.00 was set by hand, so nothing is promised about false abstention." in page.text
    assert "layer 1 352 7.88 6.00 3.00 18.0 1.12" in page.text
    assert "boxDistance" not in [attributes.get("data-chart") for _, attributes in page.elements]
    assert summary(load_run(tmp_path / "run")) == ""


def test_experts_have_their_own_names_and_thousands_of_them_no_table(tmp_path: Path) -> None:
    facts = drawn_details(3, used=[0, 2], experts=2)
    assert "layers.2.experts.1:input 352" in Page(report(write_calibrated(tmp_path / "few", facts))).text
    many = Page(report(write_calibrated(tmp_path / "many", drawn_details(2, experts=51))))
    assert len(many.data["erasures"][0]["boxes"]) == 102 and "The same in numbers" not in many.text


def test_neurons_have_a_section_of_their_own(tmp_path: Path) -> None:
    page = Page(report(write_calibrated(tmp_path / "run", {"neurons": {"0": 1200, "1": 34}})))
    ids = {attributes.get("id") for _, attributes in page.elements}
    assert "neurons" in ids and "calibration" not in ids and "1,234 neurons" in page.text


def test_several_runs_and_several_seeds(tmp_path: Path) -> None:
    runs = write_comparison(tmp_path / "runs")
    write_erasure(runs / "grad_diff", details())
    write_erasure(runs / "npo", {"neurons": {"0": 3}})
    page = Page(report(runs))
    assert [one["run"] for one in page.data["erasures"]] == [1, 2]  # by name, grad_ascent is the first
    assert "npo: 3 neurons" in page.text

    seeds = write_seeds(tmp_path / "seeds", seeds=2)
    for number, share in enumerate((0.25, 0.5)):
        facts = details()
        facts["calibration"]["generate"]["bounds"][0]["observed"] = share
        write_erasure(seeds / f"seed-{number}", facts)
    page = Page(report(seeds))
    assert "Of several seeds, the first is shown." in page.text
    assert len(page.data["erasures"]) == 1 and page.data["erasures"][0]["mark"]["falsely"] == 0.25
    assert summary(load_run(seeds)).startswith("First seed: false abstention at most 5% by calibration on 80 rows")


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    hostile = "</script><img src=x onerror=alert(1)>"
    facts = details()
    facts["calibration"]["generate"] |= {"decides": hostile}
    facts["calibration"]["generate"]["bounds"][1]["group"] = hostile
    facts["curves"][0]["groups"] = {hostile: [0.0, 0.0, 0.1, 1.0]}
    facts["boxes"][0]["site"] = hostile
    path = report(write_calibrated(tmp_path / "run", facts))
    page = Page(path)
    assert f"decided by the group “{hostile}”" in page.text
    assert "img" not in [tag for tag, _ in page.elements] and "<img src=x" not in path.read_text(encoding="utf-8")


def test_the_summary_in_a_terminal(tmp_path: Path) -> None:
    said = summary(load_run(write_calibrated(tmp_path / "run")))
    assert said == (
        "False abstention at most 5% by calibration on 80 rows (95% sure: below 11.4%), "
        "and in each of 2 groups (95% sure: below 11.4%); "
        "detection at least 97% of 40 unseen forget rows."
    )
    facts = details() | {"layers": [0, 2]}
    facts["calibration"]["generate"]["bounds"] = facts["calibration"]["generate"]["bounds"][:1]
    said = summary(load_run(write_calibrated(tmp_path / "other", facts)))
    assert said == "False abstention at most 5% by calibration on 80 rows (95% sure: below 11.4%)."
    assert summary(load_run(write_run(tmp_path / "none"))) == ""


def test_it_is_shown_after_a_run_in_eighty_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from expunge.cli import display

    def shown(folder: Path) -> list[str]:
        console = Console(width=80, file=io.StringIO(), color_system=None)
        monkeypatch.setattr(display, "Console", lambda: console)
        display.show_run(folder, as_json=False)
        assert isinstance(console.file, io.StringIO)
        lines = console.file.getvalue().splitlines()
        assert all(len(line) <= 80 for line in lines[:-1])  # the last one is the page's path
        return [line.rstrip() for line in lines]

    write_calibrated(tmp_path / "a" / "one")
    first = "False abstention at most 5% by calibration on 80 rows (95% sure: below 11.4%),"
    assert first in shown(tmp_path / "a" / "one")
    write_run(tmp_path / "a" / "other", "grad_diff")
    assert sum("False abstention at most" in line for line in shown(tmp_path / "a")) == 1
