"""Protects suite mlqa: a set a language, files in every public form, and their bad rows named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from expunge.benchmarks import mlqa
from expunge.errors import ConfigError, RequestError, UnknownNameError
from expunge.evaluation.reading import ReadingRow

DATA = Path(__file__).parent / "public" / "xquad"


def test_a_set_for_each_language() -> None:
    suite = mlqa.build(DATA, languages=["en", "de", "es", "ar", "zh", "vi", "hi"])
    assert {name: len(rows) for name, rows in suite.sets.items()} == dict.fromkeys(
        ["en", "de", "es", "ar", "zh", "vi", "hi"], 2
    )
    assert {"en_token_f1", "zh_exact_span", "ar_contained_span"} <= set(suite.keys())
    row = suite.sets["de"][0]
    assert isinstance(row, ReadingRow)
    assert row.prompt.startswith("Passage: Die Verteidigung der Panthers gab nur 308 Punkte ab")
    assert row.prompt.endswith(
        "für sein Team wurden.\nQuestion: Wie viele Punkte gab die Verteidigung der Panthers ab?\nAnswer: "
    )
    assert (row.answer, row.accepted, row.language, row.kind) == ("308", ("308",), "de", "completion")
    assert row.source == "xquad.de.json:row 1, paragraph 1, question 1"
    assert list(mlqa.build(DATA, languages="zh", limit=1).sets) == ["zh"]


def test_turns() -> None:
    row = mlqa.build(DATA, turns=True).sets["en"][1]
    assert (row.kind, row.history) == ("question", ())
    assert row.prompt.startswith("The Panthers defense")
    assert row.prompt.endswith("\n\nHow many career sacks did Jared Allen have?")


def test_names_of_mlqa_and_flat_rows(tmp_path: Path) -> None:
    shutil.copyfile(DATA / "xquad.de.json", tmp_path / "test-context-de-question-de.json")
    shutil.copyfile(DATA / "xquad.de.json", tmp_path / "dev-context-de-question-de.json")
    shutil.copyfile(DATA / "xquad.de.json", tmp_path / "test-context-en-question-de.json")  # crosses languages
    flat = [
        {
            "id": "1",
            "context": "A b.",
            "question": "b?",
            "answers": {"text": ["b", "B", "b"], "answer_start": [2, 2, 2]},
        }
    ]
    (tmp_path / "en.jsonl").write_text("".join(json.dumps(one) + "\n" for one in flat))
    sets = mlqa.build(tmp_path, languages=["en", "de"]).sets
    assert len(sets["de"]) == 2
    row = sets["en"][0]
    assert isinstance(row, ReadingRow)
    assert (row.answer, row.accepted) == ("b", ("b", "B"))


def test_datasets_of_the_hub() -> None:
    assert mlqa._source("facebook/mlqa", "de") == "facebook/mlqa:mlqa.de.de:test"
    assert mlqa._source("google/xquad", "de") == "google/xquad:xquad.de:validation"


def test_bad_rows_and_missing_files_of_all_languages_at_once(tmp_path: Path) -> None:
    article = {"paragraphs": [{"context": "c", "qas": [{"question": "q"}, 3, {"answers": [{"text": "a"}]}]}, {}]}
    (tmp_path / "xx.en.json").write_text(json.dumps({"data": [article]}))
    with pytest.raises(RequestError) as caught:
        mlqa.build(tmp_path, languages=["en", "es"])
    told = str(caught.value)
    assert "4 of 4 rows cannot be used" in told
    assert "paragraph 1, question 1: answers is None, expected at least one with a text" in told
    assert "paragraph 1, question 2: found int, expected an object" in told
    assert "paragraph 1, question 3: no question" in told
    assert "paragraph 2: has no qas" in told
    assert "no file of language es (found xx.en.json)" in told


def test_unknown_languages(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mlqa has no language 'eng'\. Did you mean 'en'"):
        mlqa.build(DATA, languages=["eng"])
    with pytest.raises(ConfigError, match="expected at least one, and each once"):
        mlqa.build(DATA, languages=["en", "en"])
    with pytest.raises(RequestError, match="is no folder with a file a language and no dataset id"):
        mlqa.build(tmp_path / "nowhere")
    with pytest.raises(UnknownNameError):
        from expunge.benchmarks.registry import get_benchmark

        get_benchmark("mlqua")
