"""Protects suite concept_vectors on rows of its schema: concepts, their probes, and answers beside the target's."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import expunge.extras
import zoo
from expunge.benchmarks import concept_vectors
from expunge.errors import ConfigError, RequestError
from expunge.evaluation.outputs import run_model
from expunge.evaluation.score import score
from expunge.evaluation.suite import select
from fitting import fit

ROWS: list[dict[str, Any]] = [
    {
        "ID": 1,
        "Concept": "Lanterns",
        "Layer": 1,
        "Dim": 7,
        "QA": [" What does a lantern hold?\n", " Who carries a lantern?\n"],
        "text_completion": [{"First_half": "A lantern has a handle ", "Second_half": " and panes of glass"}],
        "unrelated_QA": [" What is a kite made of?\n", " Where do boats rest?\n"],
        "wikipedia_content": "A lantern is a light in a case.",
    },
    {
        "Concept": "Kites",
        "Layer": 0,
        "Dim": 3,
        "QA": ["What is a kite made of?"],
        "text_completion": [],
        "unrelated_QA": ["Where do boats rest?", "Who carries a lantern?"],
    },
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "concepts.json", ROWS)


def test_a_concept_and_its_probes(data: Path) -> None:
    lanterns, kites = concept_vectors.load(data)
    assert (lanterns.name, lanterns.layer, lanterns.neuron) == ("Lanterns", 1, 7)
    assert [row.prompt for row in lanterns.questions] == ["What does a lantern hold?", "Who carries a lantern?"]
    (half,) = lanterns.completions
    assert (half.prompt, half.answer, half.kind) == ("A lantern has a handle ", "and panes of glass", "completion")
    assert lanterns.questions[1].source == "concepts.json:1 QA[1]"
    request = lanterns.request()
    assert (request.forget[0].answer, request.forget[0].kind) == ("A lantern is a light in a case.", "document")
    assert request.subjects == ("Lanterns",)
    assert (kites.completions, kites.article) == ((), "")


@pytest.mark.parametrize("dumped", [json.dumps, repr])
def test_lists_in_csv_are_json_or_python_text(tmp_path: Path, data: Path, dumped: Callable[[Any], str]) -> None:
    path = tmp_path / "concepts.csv"
    columns = [name for name in ROWS[0] if name != "ID"]
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(columns)
        for row in ROWS:
            cells = [row.get(name, "") for name in columns]
            table.writerow([dumped(cell) if isinstance(cell, list) else cell for cell in cells])
    read, expected = concept_vectors.load(path), concept_vectors.load(data)
    assert [(one.name, one.layer, one.neuron, one.article) for one in read] == [
        (one.name, one.layer, one.neuron, one.article) for one in expected
    ]
    ((half,), ()) = (one.completions for one in read)
    assert (half.prompt, half.answer) == ("A lantern has a handle ", "and panes of glass")
    assert [[row.prompt for row in one.unrelated] for one in read] == [
        ["What is a kite made of?", "Where do boats rest?"],
        ["Where do boats rest?", "Who carries a lantern?"],
    ]


def test_one_concept_or_all(data: Path) -> None:
    suite = concept_vectors.build(data, "Lanterns")
    sizes = {name: len(rows) for name, rows in suite.sets.items()}
    assert sizes == {"questions": 2, "completions": 1, "unrelated": 2}
    assert suite.plays == {"forget": "questions", "retain": "unrelated"}
    # Of all, each concept's questions are among the other's unrelated ones and are left out there; the boats, once.
    every = concept_vectors.build(data)
    assert [row.prompt for row in every.sets["unrelated"]] == ["Where do boats rest?"]
    assert len(every.sets["questions"]) == 3
    assert set(concept_vectors.build(data, "Kites").sets) == {"questions", "unrelated"}
    assert len(concept_vectors.build(data, limit=1).sets["questions"]) == 1


def test_bad_input_at_once(tmp_path: Path, data: Path) -> None:
    bad = write(
        tmp_path / "bad.json",
        [
            {"Concept": "A", "Layer": "x", "Dim": 1, "QA": ["Q?"], "text_completion": [{"First_half": "one"}]},
            {"Concept": "B", "Layer": 1, "Dim": 1, "QA": "no list"},
            {"Concept": "C", "Layer": 1, "Dim": 1, "QA": []},
            {"Concept": "D", "Layer": -3, "Dim": -1, "QA": ["Q?"], "text_completion": "[a lantern"},
            {"Concept": "E", "Layer": 0, "Dim": "-1", "QA": ["Q?"], "text_completion": '["A lantern"]'},
        ],
    )
    with pytest.raises(RequestError) as caught:
        concept_vectors.build(bad)
    told = str(caught.value)
    assert "5 of 5 rows cannot be used" in told
    for text in ("Layer is 'x'", "Layer is -3", "Dim is -1", "Dim is '-1'"):
        assert f": {text}, expected a whole number from 0\n" in told
    assert "text_completion[0] is {'First_half': 'one'}, expected First_half and Second_half" in told
    # a text that is no list is one problem, not one a letter; what is in a list has its place
    assert told.count("text_completion") == 3
    assert "text_completion is '[a lantern', expected a list of First_half and Second_half" in told
    assert "text_completion[0] is 'A lantern', expected First_half and Second_half" in told
    assert "QA is 'no list', expected a list of texts" in told
    assert "QA has no questions about the concept" in told
    with pytest.raises(RequestError, match="tells of Lanterns more than once"):
        concept_vectors.build(write(tmp_path / "twice.json", [ROWS[0], ROWS[0]]))
    with pytest.raises(ConfigError, match=r"has no concept 'Lantern'\. Did you mean 'Lanterns'"):
        concept_vectors.build(data, "Lantern")
    with pytest.raises(ConfigError, match=r"suite\.concept is empty"):
        concept_vectors.build(data, [])


def test_without_sacrebleu(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expunge.extras, "installed", lambda _package: None)
    suite = concept_vectors.build(data)
    left_out = select(suite).left_out
    for key in ("completions_bleu", "questions_as_target_bleu", "unrelated_as_target_bleu"):
        assert "pip install 'expunge[eval]'" in left_out[key]
    assert "questions_bleu" not in left_out
    monkeypatch.setattr(expunge.extras, "installed", lambda _package: "2.6.0")
    assert {"completions_bleu", "unrelated_as_target_bleu"} <= set(concept_vectors.build(data).keys())


def test_a_target_and_its_ablation_are_scored(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expunge.extras, "installed", lambda _package: None)
    (concept,) = concept_vectors.load(data, "Lanterns")
    suite = concept_vectors.of_concepts([concept])
    scored = ("as_target_rouge", "answer_words", "rejection", "rouge_f1", "probability")
    every = suite.keys()
    keys = [key for key in every if key.endswith(scored)]
    model, tokenizer = zoo.model("llama"), zoo.tokenizer("llama")
    values = {"layer": concept.layer, "neurons": [concept.neuron], "noise": 50.0}
    erasure = fit("concept_vector_ablation", values, model=model, request=concept.request())
    before = run_model(model, tokenizer, suite, max_new_tokens=8, metrics=keys)
    with erasure.applied(model):
        after = run_model(model, tokenizer, suite, max_new_tokens=8, metrics=keys)
    rows = score(suite, target=before, erased=after, metrics=keys).rows
    assert rows["target"]["questions_as_target_rouge"].value == 1
    assert rows["erased"]["questions_as_target_rouge"].value < 1  # so large a noise drowns everything else
    assert {"completions_rouge_f1", "completions_probability", "unrelated_rejection"} <= set(rows["erased"])
