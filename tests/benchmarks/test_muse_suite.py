"""Protects suite muse on harmless texts of its schema: every form of the files, its prompts, its six scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import zoo
from expunge.benchmarks import muse
from expunge.errors import ConfigError, RequestError
from expunge.evaluation.outputs import run_model
from expunge.evaluation.score import score
from expunge.evaluation.types import ModelOutputs, RowOutputs
from made_outputs import answer, model_outputs

QA: dict[str, list[dict[str, Any]]] = {
    "forget_qa": [
        {"question": "Who found the lamp?", "answer": "Old Brenn"},
        {"question": "When?", "answer": "In May"},
    ],
    "retain_qa": [{"question": "Who bakes?", "answer": "Mira does"}],
    "forget_qa_icl": [{"question": "Who rows?", "answer": "Tam"}, {"question": "Where?", "answer": "On the lake"}],
    "retain_qa_icl": [{"question": "Who sings?", "answer": "Ode"}, {"question": "What?", "answer": "A song"}],
}
VERBMEM = [{"prompt": "The lamp stood by", "gt": "the door of the mill all night"}]
TEXTS = {
    "forget": ["Brenn found the lamp in May.", "He lit it at the mill."],
    "retain": ["Mira bakes bread."],
    "holdout": ["A kite flew over town.", "It came down at noon."],
}


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, rows in QA.items():
        write(tmp_path / "knowmem" / f"{split}.json", rows)
    write(tmp_path / "verbmem" / "forget.json", VERBMEM)
    for split, texts in TEXTS.items():
        write(tmp_path / "privleak" / f"{split}.json", texts)
    for subset in ("scal", "sust"):
        for step in range(1, 5):
            write(tmp_path / subset / f"forget_{step}.json", [f"Text {i} of {subset} {step}." for i in range(step)])
    return tmp_path


def test_sets_and_prompts(folder: Path) -> None:
    suite = muse.build(folder, shots=2)
    assert {name: len(rows) for name, rows in suite.sets.items()} == {
        "verbmem": 1, "knowmem_forget": 2, "knowmem_retain": 1, "privleak_forget": 2, "privleak_holdout": 2,
    }  # fmt: skip
    (copied,) = suite.sets["verbmem"]
    assert (copied.prompt, copied.answer, copied.kind) == (
        "The lamp stood by",
        "the door of the mill all night",
        "completion",
    )
    assert suite.cut_sets == ("verbmem",)  # texts go on for longer than any answer
    assert suite.sets["knowmem_forget"][0].prompt == (
        "Question: Who rows?\nAnswer: Tam\n\nQuestion: Where?\nAnswer: On the lake\n\n"
        "Question: Who found the lamp?\nAnswer: "
    )
    (kept,) = suite.sets["knowmem_retain"]
    assert kept.prompt.startswith("Question: Who sings?\nAnswer: Ode\n\n")
    assert (kept.answer, kept.source) == ("Mira does", "retain_qa.json:1")
    assert [row.kind for row in suite.sets["privleak_forget"]] == ["document"] * 2
    assert suite.sets["privleak_holdout"][1].answer == "It came down at noon."
    assert muse.build(folder, shots=0).sets["knowmem_retain"][0].prompt == "Question: Who bakes?\nAnswer: "
    assert len(muse.build(folder, shots=0, limit=1).sets["privleak_forget"]) == 1


def test_larger_requests_and_one_after_another(folder: Path) -> None:
    # scal: the forget set of one size; sust: all requests so far.
    suite = muse.build(folder, shots=1, scal=3, sust=2)
    extra = {name: len(rows) for name, rows in suite.sets.items() if name.startswith("s")}
    assert extra == {"scal_3": 3, "sust_1": 1, "sust_2": 2}
    assert {"scal_3_exact_memorization", "sust_2_probability"} <= set(suite.keys())
    with pytest.raises(ConfigError, match=r"suite\.sust=5: sust has forget sets 1 to 4"):
        muse.build(folder, sust=5)


def test_files_as_the_hub_has_them(folder: Path, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    expected = muse.build(folder, shots=1).sets
    parts = [("knowmem", split, rows) for split, rows in QA.items()] + [("verbmem", "forget", VERBMEM)]
    parts += [("privleak", split, [{"text": text} for text in texts]) for split, texts in TEXTS.items()]
    for subset, split, rows in parts:
        path = tmp_path / "hub" / subset / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    write(tmp_path / "hub" / "privleak" / "forget.json", ["An older copy."])
    assert muse.build(tmp_path / "hub", shots=1).sets == expected


def test_bad_input_at_once(folder: Path) -> None:
    write(folder / "knowmem" / "retain_qa.json", [{"question": "Who bakes?"}, {"question": 3, "answer": "x"}])
    write(folder / "privleak" / "holdout.json", ["good", 3])
    (folder / "verbmem" / "forget.json").unlink()
    with pytest.raises(RequestError) as caught:
        muse.build(folder, shots=3)
    told = str(caught.value)
    assert f"{folder}: has no verbmem/forget (forget.json" in told
    assert "retain_qa.json:1: no answer; columns found: question" in told
    assert "retain_qa.json:1: question is 3, expected text" in told
    assert "holdout.json" in told and "a number" in told
    assert "suite.shots=3: forget_qa_icl has 2 and retain_qa_icl has 2 solved questions. Lower it" in told
    with pytest.raises(RequestError, match="is no folder with MUSE's subsets and no dataset id"):
        muse.build("nowhere")


def test_the_six_scores_by_hand(folder: Path) -> None:
    suite = muse.build(folder, shots=1)
    keys = ["verbmem_rouge_f1", "knowmem_forget_rouge_f1", "knowmem_retain_rouge_f1", "membership_auc", "privleak"]

    def outputs(copied: str, said: tuple[str, str], kept: str, forget: float) -> ModelOutputs:
        """One token a text: ``forget`` for the texts to forget, .5 and .7 for the others."""
        greedy = {"verbmem": [copied], "knowmem_forget": said, "knowmem_retain": [kept]}
        likely = {"privleak_forget": [forget, forget], "privleak_holdout": [0.5, 0.7]}
        found = {
            name: [RowOutputs(row, greedy=text) for row, text in zip(suite.sets[name], texts, strict=True)]
            for name, texts in greedy.items()
        }
        found |= {
            name: [RowOutputs(row, answer=answer(p, 1.0)) for row, p in zip(suite.sets[name], some, strict=True)]
            for name, some in likely.items()
        }
        return model_outputs(**found)

    target = outputs("the door of the mill all night", ("Old Brenn\n\nQuestion: Who", "In May"), "Mira does", 0.9)
    erased = outputs("the door", ("Nobody", "In June\nQuestion: x"), "Mira", 0.6)
    retrained = outputs("a wall", ("Ann", "June"), "Mira does", 0.4)
    rows = score(suite, target=target, erased=erased, retrained=retrained, metrics=keys).rows
    # verbmem: 2 of 7 words given, both right: 2 * 2 / (7 + 2). knowmem: 0, and "In" of "In May" against "In June":
    # 2 / 4; their mean 1/4. retain: "Mira" of "Mira does": 2 / 3. AUC: .6 beats .5, not .7: 1/2; retrained .4: 0;
    # privleak 100 ((1 - .5) - 1) / 1 = -50.
    values = {key: one.value for key, one in rows["erased"].items()}
    assert values == pytest.approx(dict(zip(keys, (4 / 9, 0.25, 2 / 3, 0.5, -50), strict=True)))
    assert [rows["target"][key].value for key in keys] == pytest.approx([1, 1, 1, 1, -100])
    assert (suite.utility, suite.plays["forget"]) == ("knowmem_retain_rouge_f1", "knowmem_forget")


def test_a_model_is_scored(folder: Path) -> None:
    suite = muse.build(folder, shots=1, scal=1)
    outputs = run_model(zoo.model("llama"), zoo.tokenizer("llama"), suite, max_length=200, max_new_tokens=4)
    rows = score(suite, target=outputs, retrained=outputs).rows
    assert 0 <= rows["target"]["membership_auc"].value <= 1
    assert rows["target"]["privleak"].value == 0
    assert rows["target"]["privleak_forget_min_k"].value < 0
    assert {"scal_1_probability", "verbmem_extraction_strength", "knowmem_forget_distinct_4grams"} <= set(
        rows["target"]
    )
