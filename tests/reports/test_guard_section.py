"""Protects what a report says of an input guard: rates, weak spots and how it was learned, found by keys alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from expunge.reports import load_run, report
from expunge.reports.guard import drawn, shown, summary, without_drawn

from .fake_guard import guard, learned, rate, write_guarded
from .fake_runs import write_seeds
from .test_page import Page


def one(folder: Path) -> Any:
    (found,), _ = shown([load_run(folder)])
    return found


def charts(page: Page) -> list[str | None]:
    names = [a.get("data-chart") for _, a in page.elements if "chart" in (a.get("class") or "").split()]
    return [name for name in names if name in ("precisionRecall", "reliability", "learnedPoints", "learnedSteps")]


def test_false_alarms_by_kind_with_bound_and_interval(tmp_path: Path) -> None:
    found = one(write_guarded(tmp_path / "run"))
    # 1 of 80 is 1.25%; bounds: 2/81 = 2.47% and 1/41 = 2.44%, rounded up
    assert [(row.name, row.rate, row.interval, row.bound, row.rows) for row in found.false] == [
        ("All together", "1.2%", "<0.1% to 6.8%", "2.5%", "80"),
        ("facts", "2.5%", "<0.1% to 13%", "2.5%", "40"),
        ("retain", "0%", "0% to 8.8%", "2.5%", "40"),
    ]
    # one kind is all there are, and not said twice
    assert [(row.name, row.rate, row.flagged, row.rows) for row in found.recall] == [
        ("All together", "90%", "18", "20")
    ]


def test_made_prompts_are_no_part_of_the_recall(tmp_path: Path) -> None:
    made = guard() | {
        "prompts": {"own": 1, "made": 20},
        "recall": {"": rate(1, 1, 0.025, 1.0), "forget": rate(1, 1, 0.025, 1.0), "made": rate(20, 20, 0.83, 1.0)},
    }
    folder = write_guarded(tmp_path / "run", guard=made)
    assert summary(load_run(folder)).endswith("recall 100% of 1 prompt of the request's own (20 made ones aside).")
    found = one(folder)
    assert [(row.name, row.rows) for row in found.recall] == [
        ("The request's own", "1"),
        ("forget", "1"),
        ("made", "20"),
    ]
    assert dict(found.facts)["Fitted on"].startswith("1 prompt of the request's own and 20 made")


def test_weak_spots_are_named_in_words_and_the_weakest_stand_first(tmp_path: Path) -> None:
    found = one(write_guarded(tmp_path / "run"))
    assert [(row.name, row.rate, row.weak) for row in found.robustness] == [
        ("as they are", "90%", False),
        ("sung aloud", "5.0%", True),
        ("with blanks between all letters", "25%", True),
        ("with typos", "95%", False),
    ]
    assert found.weak_spots == (
        "Weak spots: prompts sung aloud (5.0%), with blanks between all letters (25%). Recall there is surely lower "
        "than on the prompts as they are (90%): their intervals do not meet."
    )
    strong = guard() | {"robustness": {"plain": rate(9, 10, 0.55, 1.0), "typos": rate(9, 10, 0.55, 1.0)}}
    words = one(write_guarded(tmp_path / "strong", guard=strong | {"weak_spots": []})).weak_spots
    assert words.startswith("No weak spot: under none of 1 disguise ")


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    page = Page(report(write_guarded(tmp_path / "run", guard=guard() | {"robustness": {}, "weak_spots": []})))
    assert "Recall of disguised prompts was not measured" in page.text


def test_the_page_shows_tables_words_and_figures(tmp_path: Path) -> None:
    page = Page(report(write_guarded(tmp_path / "run", guard=guard(), learned=learned())))
    for said in (
        "by words and characters (TF-IDF).",
        "a score of 1.50; at most 2.5% of benign prompts asked for, decided by the group “facts”.",
        "Average precision 0.938.",
        "100 prompts, both classes weighing the same. They are off by 0.0500 on average.",
        "The strength in use, 6.00, was the best of 4 evaluations.",
        "It was to bring the score (probability of the answer) to 0.0625, the target's on holdout rows, which it never",
        "it came within 0.125. Unguarded, the target's score is 0.875.",
        "3 1 6.00 0.125",
    ):
        assert said in page.text
    assert charts(page) == ["precisionRecall", "reliability", "learnedPoints", "learnedSteps"]
    # what is only drawn is not among the settings as well
    assert "details.guard.threshold.value" in page.text and "details.learned.surrogate" in page.text
    for drawn_alone in ("guard.precision_recall", "guard.reliability", "guard.robustness", "learned.history"):
        assert f"details.{drawn_alone}" not in page.text


def test_what_happens_to_a_recognised_prompt(tmp_path: Path) -> None:
    folder = write_guarded(tmp_path / "run", guard=guard(), learned=learned())
    manifest = folder / "erasure" / "manifest.json"
    values = json.loads(manifest.read_text(encoding="utf-8"))

    def then(**parameters: Any) -> str:
        manifest.write_text(json.dumps(values | {"parameters": parameters}), encoding="utf-8")
        return dict(one(folder).facts)["Then"]

    assert then(refusal="No.") == "the answer is “No.”"
    assert then(corruption="zero_out_top_k", strength=None, dims=3, tagger="all_but_last") == (
        "embeddings are corrupted: zero_out_top_k, strength 6.00 (learned), dimensions 3, tokens: all but last."
    )


def test_what_is_drawn() -> None:
    found = drawn({"guard": guard(), "learned": learned()})
    # the threshold is 1.5: from there on precision is 0.9 and recall 0.9
    assert found["mark"] == {"precision": 0.9, "recall": 0.9}
    assert found["reliability"]["rows"] == [70, 14, 16]
    assert (found["history"]["what"], found["history"]["point"]) == ("Strength", [1.0, 4.0, 6.0, 2.0])
    assert found["history"]["best"] == {"point": 6.0, "value": 0.125}
    # between two points of the curve the last one that flags no prompt below the threshold stands
    between = drawn({"guard": guard() | {"threshold": guard()["threshold"] | {"value": 1.25}}})
    assert between["mark"] == {"precision": 0.9, "recall": 0.9} and between["history"] is None
    above = drawn({"guard": guard() | {"threshold": guard()["threshold"] | {"value": 5.0}}})
    assert above["mark"] is None
    json.dumps(found, allow_nan=False)


def test_a_vector_is_drawn_by_its_mean_and_does_not_fill_the_tables(tmp_path: Path) -> None:
    facts = learned([5.0, 7.0])
    history = drawn({"learned": facts})["history"]
    assert history["best"]["point"] == 6.0 and history["what"] == "Strength, mean over the dimensions"
    words = "6.00 on average over 2 dimensions (5.00 to 7.00)"
    assert without_drawn({"learned": facts})["learned"]["point"] == words
    assert words in Page(report(write_guarded(tmp_path / "run", learned=facts))).text


@pytest.mark.parametrize(
    "facts",
    [
        {"guard": "none", "learned": 3},
        {"guard": {"threshold": 0.5}, "learned": {"what": "strength"}},
        {"guard": {"threshold": {"value": "high", "level": 0.01}}, "learned": learned() | {"history": []}},
        {"learned": learned() | {"history": [{"step": 0, "point": "a", "value": 1.0}]}},
    ],
)
def test_what_another_method_keeps_under_these_keys_is_left_alone(tmp_path: Path, facts: dict[str, Any]) -> None:
    folder = write_guarded(tmp_path / "run", **facts)
    page = Page(report(folder))
    assert page.data["guards"] == [] and summary(load_run(folder)) == ""
    assert "guard" not in {attributes.get("id") for _, attributes in page.elements}


def test_parts_that_are_missing_or_odd_are_left_out(tmp_path: Path) -> None:
    odd = {"precision_recall": {"threshold": [1.0], "precision": [], "recall": [1.0]}, "reliability": None}
    page = Page(report(write_guarded(tmp_path / "run", guard={"threshold": {"value": 1.0, "level": 0.5}, **odd})))
    assert charts(page) == [] and "a score of 1.00; at most 50%" in page.text


def test_the_terminal_says_it_in_a_line(tmp_path: Path) -> None:
    folder = write_guarded(tmp_path / "run")
    assert summary(load_run(folder)) == (
        "Guard acts from score 1.50 on; false alarms 1.2% of 80 benign prompts, 2.5% asked for; recall 90% of 20."
    )
    seeds = write_seeds(tmp_path / "seeds", seeds=2)
    for seed in (0, 1):
        write_guarded(seeds / f"seed-{seed}")
    assert summary(load_run(seeds)).startswith("First seed: guard acts from score 1.50 on")
    assert Page(report(seeds)).text.count("Of several seeds, the first is shown.") == 1


def test_forget_prints_that_line_below_the_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from expunge.cli.display import show_run

    show_run(write_guarded(tmp_path / "run"), as_json=False)
    words = " ".join(capsys.readouterr().out.split())
    assert "Guard acts from score 1.50 on; false alarms 1.2% of 80 benign prompts" in words
