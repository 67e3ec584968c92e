"""Protects what a report says of audits: words first, then figures, then scores, whatever audit wrote them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from expunge.audits import patching as patching_audit
from expunge.audits import restoration
from expunge.reports import Run, load_run, report
from expunge.reports.audit_figures import COMPONENTS
from expunge.reports.audits import AuditCards, lede, shown
from expunge.reports.numbers import NONE
from expunge.reports.page import _facts

from .fake_audits import entry, found, heat, paraphrase, patching, relearning
from .fake_runs import write_json, write_run
from .test_page import Page


def audited(audits: Any) -> Run:
    return Run(folder=Path("run"), label="npo", scores={}, audits=audits)


def cards(audits: Any) -> tuple[AuditCards, list[dict[str, Any]]]:
    (one,), figures = shown([audited(audits)])
    return one, figures


def test_every_audit_has_its_words_and_its_tone() -> None:
    one, _ = cards(found())
    assert [(card.title, card.label, card.tone, card.meta) for card in one.cards] == [
        ("Patching", "hidden", "bad", "took 2.50 s"),
        ("Paraphrase", "erased", "good", "took 3.00 s"),
        ("Relearning", "comes back", "bad", "took 1 min 01 s"),
    ]
    assert one.cards[0].words == "The knowledge is hidden in layer 1."
    # the most alarming label first
    assert one.summary == (
        "Of 3 audits: comes back in 1 (relearning); hidden in 1 (patching); erased in 1 (paraphrase). "
        "Left out: linear probe."
    )
    assert one.left_out == (("Linear probe", "There are no options."),)
    assert lede(audited(found())) == f"With the guard lifted, of course, the knowledge is there. {one.summary}"


def test_scores_stand_by_model_with_what_is_beyond_the_control() -> None:
    one, _ = cards(found())
    patched = one.cards[0]
    assert patched.columns == ("Erased", "Retrained", "Erased beyond retrained")
    ((label, values),) = patched.rows
    assert label == "Knowledge recovered, MLP keys"
    assert [cell.text for cell in values if cell] == ["0.800", "0.0500", "+0.750"]
    assert values[2] is not None and values[2].spread == "±0.020"
    relearned = one.cards[2]
    assert relearned.columns == ("Target", "Erased", "Retrained")
    assert [[None if cell is None else cell.text for cell in row] for _, row in relearned.rows] == [
        ["1.00", "0.0500", "0.0400"],
        [None, "0.500", "0.0600"],
    ]


def test_recovery_is_drawn_by_component_and_window() -> None:
    one, figures = cards(found())
    erased, retrained = one.cards[0].figures
    drawn = figures[erased.index]
    # 0.2 + 0.6 / 2 and 0.2 + 0.6, each with an interval of 0.05 to both sides; `outside` has no window of layers
    assert drawn["windows"] == ["layer 0", "layer 1", "no layer"]
    assert [row["name"] for row in drawn["rows"]] == ["MLP keys", "embeddings, last norm and head"]
    assert drawn["rows"][0]["cells"][1] == [pytest.approx(0.8), pytest.approx(0.75), pytest.approx(0.85)]
    assert drawn["rows"][0]["cells"][2] is None and drawn["rows"][1]["cells"] == [None, None, [0.125, None, None]]
    assert "MLP keys at most 0.80, at layer 1; embeddings, last norm and head at most 0.12" in erased.alt
    assert erased.head == ("Component", "layer 0", "layer 1", "no layer")
    assert erased.rows == (
        ("MLP keys", "0.500", "0.800", NONE),
        ("embeddings, last norm and head", NONE, NONE, "0.125"),
    )
    assert figures[retrained.index]["windows"] == ["layer 0", "layer 1"]
    # the same by layer with standard errors is one click away
    assert [figure.title for figure in one.cards[0].more_figures] == ["Knowledge recovered by patching: mlp"]


def test_components_are_called_what_the_sentences_call_them() -> None:
    """Activations that are patched and parameters that are put back have different names, and each name stands in the
    sentence of its audit ("Patching the target's MLP keys of layer 3 ..")."""
    sentences = {**restoration._WHAT, **patching_audit._WHAT}
    names = {component: COMPONENTS[component] for component in sentences}
    assert len(set(names.values())) == len(names)
    assert names["mlp"] == "MLP keys"
    assert names["keys"] == "MLP gates and first projections"
    told = set(names) - {"both", "all"}  # of which the sentence lists the parts
    assert [name for name in told if names[name] not in sentences[name]] == []


def test_curves_have_their_models_and_errors() -> None:
    one, figures = cards(found(relearning=relearning()))
    (figure,) = one.cards[0].figures
    drawn = figures[figure.index]
    assert (figure.kind, drawn["x"], drawn["y"], drawn["names"]) == ("auditCurve", "steps", "words that slip out", None)
    assert {series["model"]: series["points"] for series in drawn["series"]} == {
        "target": [[0, 1.0, None], [5, 1.0, None]],
        "erased": [[0, 0.05, 0.01], [5, 0.5, 0.1]],  # what is no number has no point
        "retrained": [[0, 0.04, 0.01], [5, 0.06, 0.02]],
    }
    assert one.cards[0].key == ("target", "erased", "retrained")
    assert figure.head == ("Steps", "Target", "Erased", "Retrained")
    assert figure.rows == (
        ("0", "1.00", "0.0500 ±0.010", "0.0400 ±0.010"),
        ("5", "1.00", "0.500 ±0.10", "0.0600 ±0.020"),
    )
    assert not drawn["log"]
    doubled = relearning()
    doubled["curves"][0]["series"] = {"erased": [[k, 0.1, None] for k in (1, 4, 16)]}
    assert cards(found(relearning=doubled))[1][0]["log"], "16 is 16 times 1"


def test_places_with_names_and_more_figures_than_stand_open() -> None:
    one, figures = cards(found(paraphrase=paraphrase()))
    card = one.cards[0]
    assert {figure.kind for figure in card.figures} == {"auditNamed"}
    assert (len(card.figures), len(card.more_figures)) == (3, 2)
    assert figures[0]["names"][0] == "typos" and len(figures[0]["names"]) == 2


def test_what_is_only_drawn_fills_no_table() -> None:
    one, _ = cards(found())
    notes = dict(one.cards[0].notes)
    assert notes["best.mlp.krs"] == "0.8" and notes["options.limit"] == "40" and notes["examples"] == "20"
    assert notes["in audits.json alone"] == "heat, by_row"
    assert not any("heat." in name or "by_row." in name for name in notes)
    many = patching()
    many["details"]["attacks"] = {"erased": {f"attack_{n}": n for n in range(21)}}  # one more than a list should have
    few = patching()
    few["details"]["attacks"] = {"erased": {f"attack_{n}": n for n in range(20)}}
    assert dict(cards(found(patching=many))[0].cards[0].notes)["in audits.json alone"] == "heat, by_row, attacks"
    assert dict(cards(found(patching=few))[0].cards[0].notes)["attacks.erased.attack_19"] == "19"


def test_seeds_of_an_audit_stand_together_and_the_first_in_full() -> None:
    names = ("patching_seed_0", "relearning_seed_0", "patching_seed_1", "relearning_seed_1")
    made = {name: patching() if name.startswith("p") else relearning() for name in names}
    one, _ = cards(found(**made))
    assert [(card.title, card.repeated) for card in one.cards] == [
        ("Patching, seed 0", False),
        ("Patching, seed 1", True),
        ("Relearning, seed 0", False),
        ("Relearning, seed 1", True),
    ]
    assert "hidden in 2 (patching, seed 0; patching, seed 1)" in one.summary


@pytest.mark.parametrize(
    "odd",
    [
        {"curves": "none"},
        {"curves": [3, {"series": {"erased": [[0], "x", [None, 1.0, 0.1], [0, float("nan"), 0.1]]}}, {"series": [1]}]},
        {"details": {"heat": [1, 2]}},
        {"details": {"heat": {"erased": {"mlp": "none", "both": [[0], ["a", 1.0]]}, "retrained": 3}}},
        {"rows": "none"},
        {"rows": {"erased": {"a": None, "b": "c"}}},
    ],
)
def test_what_has_another_form_is_left_out(odd: dict[str, Any]) -> None:
    one, figures = cards(found(odd={"verdict": {"label": "no claim", "sentence": "Said."}, **odd}))
    assert figures == [] and one.cards[0].words == "Said."
    json.dumps(figures, allow_nan=False)


def test_entries_without_words_or_labels_have_their_tables() -> None:
    one, _ = cards({"quantization": {"rows": {"erased": {"forget_probability": entry(0.5)}}, "verdict": {}}})
    assert (one.summary, one.cards[0].label, one.cards[0].rows[0][0]) == ("", "", "Forget probability")
    (alone,), _ = shown([audited({"rows": {"erased": {"leakage": 0.25}}})])
    assert alone.cards[0].title == "Audits"
    assert shown([audited(None)]) == ([], [])


def test_the_page_says_first_what_lifting_brings_back(tmp_path: Path) -> None:
    write_json(tmp_path / "audits.json", found())
    page = Page(report(tmp_path))
    first = "With the guard lifted, of course, the knowledge is there."
    assert page.text.count(first) == 1 and page.text.index(first) < page.text.index("The knowledge is hidden in layer")
    assert page.text.index("The knowledge is hidden in layer 1.") < page.text.index("Knowledge recovered in the erased")
    charts = [a for _, a in page.elements if "chart" in (a.get("class") or "").split()]
    # two heats and a curve; five by name; one by steps
    assert [a["data-chart"] for a in charts] == ["auditHeat"] * 2 + ["auditCurve"] + ["auditNamed"] * 5 + ["auditCurve"]
    assert all(a["role"] == "img" and a["aria-label"] for a in charts)
    assert [int(a["data-index"] or -1) for a in charts] == list(range(9)) and len(page.data["audits"]) == 9
    assert "a sample that is for readers of the file" not in page.text


def test_beside_scores_and_other_runs(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_json(write_run(tmp_path / name) / "audits.json", found())
    alone = Page(report(tmp_path / "one"))
    first = "With the guard lifted, of course, the knowledge is there."
    assert alone.text.index(first) < alone.text.index("What this rests on")
    assert "Of 3 audits: comes back in 1 (relearning)" in alone.text
    both = Page(report(tmp_path))
    assert both.text.count(first) == 2
    assert {chart["run"] for chart in both.data["audits"]} == {0, 1}
    assert load_run(tmp_path / "one").audits is not None


def test_windows_are_sorted_and_hold_what_they_have() -> None:
    one, figures = cards(
        found(patching={"details": {"heat": {"erased": {"a": heat(0.1)[::-1], "b": [[2, 0.3, 0.2, 0.4]]}}}, "rows": {}})
    )
    assert figures[one.cards[0].figures[0].index]["windows"] == ["layer 0", "layer 2"]
    assert one.cards[0].figures[0].rows == (("a", "0.100", NONE), ("b", NONE, "0.300"))


def test_what_is_still_to_come_is_told_apart_from_what_is_left_out(tmp_path: Path) -> None:
    cut = {**found(paraphrase=paraphrase()), "waiting": ["many_shot", "membership"], "finished": False}
    cut["left_out"] = {"linear_probe": "There are no options.", "membership": "no time"}
    one, _ = cards(cut)
    assert one.summary == (
        "Of 1 audit: erased in 1 (paraphrase). Left out: linear probe. Still to come: many shot, membership."
    )
    assert one.left_out == (("Linear probe", "There are no options."),)
    assert [name for name, _ in one.waiting] == ["Many shot", "Membership"] and one.waiting[1][1] == "no time"
    one, _ = cards({"audits": {}, "waiting": ["many_shot_seed_1"]})
    assert one.summary == "No audit has run yet. Still to come: many shot, seed 1."
    write_json(tmp_path / "audits.json", cut)
    page = Page(report(tmp_path))
    assert "Still to come" in page.text and "Many shot" in page.text


def test_the_page_says_what_was_audited(tmp_path: Path) -> None:
    write_json(tmp_path / "audits.json", found())
    settings = {"model": {"path": "base"}, "erasure": "/home/runs/npo", "retrained": {"path": None, "loaded": "Llama"}}
    (tmp_path / "run.yaml").write_text(json.dumps(settings), encoding="utf-8")
    run = load_run(tmp_path)
    assert _facts([run])[:3] == [
        ("Target", "base"), ("Erasure", "/home/runs/npo"), ("Retrained model", "a loaded Llama"),
    ]  # fmt: skip
    write_json(tmp_path / "environment.json", {"audited": {"erasure": "runs/npo"}})
    assert _facts([load_run(tmp_path)])[1] == ("Erasure", "runs/npo")  # as the user gave it
    beside = write_run(tmp_path / "one")
    assert [name for name, _ in _facts([load_run(beside), run])][:2] == ["Model", "Erasure"]
