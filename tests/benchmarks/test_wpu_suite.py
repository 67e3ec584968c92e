"""Protects suite `wpu`: the data set's files become three sets and pages, in either schema; what is wrong is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from expunge.benchmarks import wpu
from expunge.errors import ConfigError, RequestError, UnknownNameError
from expunge.evaluation.outputs import run_model
from expunge.evaluation.score import score
from expunge.evaluation.types import ModelOutputs, RowOutputs, SetOutputs
from expunge.requests.rows import Row

ROWS = Path(__file__).parent / "wpu_rows"


def test_one_row_a_question_with_the_page_in_each() -> None:
    people = wpu.load(ROWS, "forget_2_1")
    assert people.names == ("Orla Fenwick", "Pim Roth")
    assert [(row.prompt, row.answer, row.group) for row in people.forget] == [
        ("Where was Orla Fenwick born?", "Tarn", "Orla Fenwick"),
        ("What did Orla Fenwick win?", "The Loaf Cup", "Orla Fenwick"),
        ("What did Pim Roth build?", "Clocks", "Pim Roth"),
    ]
    assert [row.answer for row in people.hard_retain] == ["Bread", "The North Sea"]
    assert [row.answer for row in people.general_retain] == ["Ballads", "1850"]
    # Fenwick's page stands in two rows and is one passage.
    assert [(row.prompt, row.answer, row.kind, row.group) for row in people.passages] == [
        ("", "Orla Fenwick was a baker from Tarn. She won the Loaf Cup.", "document", "Orla Fenwick"),
        ("", "Pim Roth built clocks in Ebb.", "document", "Pim Roth"),
    ]
    assert people.forget[1].source == "forget_2_1.jsonl:2"


def test_questions_grouped_by_person_with_the_pages_apart() -> None:
    people = wpu.load(ROWS, "forget_2")
    assert [(row.group, row.answer) for row in people.forget] == [("Orla Fenwick", "Tarn"), ("Pim Roth", "Clocks")]
    assert [row.answer for row in people.passages] == [
        "Orla Fenwick was a baker from Tarn.",
        "Pim Roth built clocks in Ebb.",
    ]


def test_some_of_the_people() -> None:
    people = wpu.load(ROWS, "forget_2_1", ["Pim Roth"])
    assert people.names == ("Pim Roth",)
    assert [len(rows) for rows in (people.forget, people.hard_retain, people.passages)] == [1, 1, 1]
    assert len(people.general_retain) == 2  # about other people: they all stay
    with pytest.raises(RequestError, match=r"forget_2_1 is not about Pim Rot\. Did you mean 'Pim Roth'\?"):
        wpu.load(ROWS, "forget_2_1", ["Pim Rot"])


def test_as_a_request() -> None:
    request = wpu.load(ROWS, "forget_2_1", ["Orla Fenwick"]).request()
    assert request.subjects == ("Orla Fenwick",)
    assert [row.kind for row in request.forget] == ["document"]
    assert [row.answer for row in request.neighbours] == ["Bread"]
    assert [row.answer for row in request.retain] == ["Ballads", "1850"]


def test_what_else_a_folder_can_hold(tmp_path: Path) -> None:
    shutil.copytree(ROWS, tmp_path, dirs_exist_ok=True)
    kept = {
        "title": "Una Vale",
        "question": "What did Una Vale sing?",
        "answer": "Ballads",
        "wikipage": "Una Vale sang.",
    }
    (tmp_path / "retain.jsonl").write_text(json.dumps(kept) + "\n" + json.dumps(kept), encoding="utf-8")
    names = {"Pim Roth": ["Sam Ott", "Ben Uhl"], "Una Vale": ["Ida Poe"]}
    (tmp_path / "replace_name_forget_100.json").write_text(json.dumps(names), encoding="utf-8")
    request = wpu.load(tmp_path, "forget_2_1", ["Pim Roth"]).request()
    assert request.substitutes == ("Sam Ott", "Ben Uhl")
    assert [(row.answer, row.kind) for row in request.retain] == [("Una Vale sang.", "document")]
    # Names that can stand in for one of two people may be the other's.
    assert wpu.load(tmp_path, "forget_2_1").request().substitutes == ()
    (tmp_path / "replace_name_forget_100.json").write_text("[1", encoding="utf-8")
    with pytest.raises(RequestError, match="is no list of names by person"):
        wpu.load(tmp_path, "forget_2_1")


def test_without_pages_the_questions_must_go(tmp_path: Path) -> None:
    for name in ("forget_2_qa.json", "forget_2_hard_retain_qa.json", "general_retain_qa.json"):
        shutil.copy(ROWS / name, tmp_path)
    people = wpu.load(tmp_path, "forget_2")
    assert people.passages == ()
    assert people.request().forget == people.forget


def test_sets_and_scores() -> None:
    suite = wpu.build(ROWS, "forget_2_1")
    assert {name: len(rows) for name, rows in suite.sets.items()} == {
        "forget": 3,
        "hard_retain": 2,
        "general_retain": 2,
    }
    for name in suite.sets:
        asked = ("rouge", "answer_quality", "rejection", "hallucination_avoidance", "distinct_4grams")
        assert {f"{name}_{label}" for label in asked} <= set(suite.keys())
    assert {"forget_leakage", "hard_retain_leakage"} <= set(suite.keys())
    assert suite.utility in suite.set_metrics()
    assert suite.plays["retain"] in suite.sets
    # No row carries wrong answers or a reworded question.
    assert set(suite.unavailable) == {
        "forget_truth_ratio",
        "hard_retain_truth_ratio",
        "general_retain_truth_ratio",
        "forget_quality",
        "forget_quality_ks",
    }
    assert {len(rows) for rows in wpu.build(ROWS, "forget_2_1", limit=1).sets.values()} == {1}


def test_rows_with_wrong_answers_and_rewordings_give_more() -> None:
    row = Row("Who?", "Me", paraphrased_prompt="Say who.", wrong_answers=("You",))
    again = Row("Who was it?", "Me", paraphrased_prompt="Say who.", wrong_answers=("You",))
    suite = wpu.of_rows(forget=[row, again], hard_retain=[row], general_retain=[row])
    assert [one.prompt for one in suite.sets["forget_paraphrased"]] == ["Say who."]  # one rewording of both, once
    assert suite.unavailable == {}
    assert "forget_quality" in suite.suite_metrics()
    metrics = suite.set_metrics()
    assert metrics["forget_truth_ratio"][1].name == "truth_ratio"
    assert metrics["hard_retain_truth_ratio"][1].name == "kept_truth_ratio"


def test_the_scores_of_three_answers() -> None:
    suite = wpu.build(ROWS, "forget_2_1")
    # One right, one declined, one invented.
    answers = dict(zip(suite.sets["forget"], ("Tarn", "I do not know.", "Bridges"), strict=True))
    outputs = ModelOutputs(
        {
            "forget": SetOutputs(
                "forget", tuple(RowOutputs(row, greedy=text, greedy_tokens=(1, 2)) for row, text in answers.items())
            )
        }
    )
    names = ["forget_leakage", "forget_rejection", "forget_hallucination_avoidance", "forget_rouge"]
    found = score(suite, target=outputs, metrics=names).rows["target"]
    assert found["forget_rouge"].value == pytest.approx(1 / 3)
    assert found["forget_leakage"].value == pytest.approx(1 / 3)
    assert found["forget_rejection"].value == pytest.approx(1 / 3)
    # The right answer and the declined one invent nothing.
    assert found["forget_hallucination_avoidance"].value == pytest.approx(2 / 3)


def test_a_tiny_model_is_scored() -> None:
    from expunge.worlds.interface import get_world

    world = get_world("people")
    suite = wpu.build(world="people", limit=4)
    names = ["forget_leakage", "hard_retain_answer_quality", "general_retain_rejection"]
    outputs = run_model(world.retrained(), world.tokenizer(), suite, metrics=names, max_new_tokens=24)
    found = score(suite, target=outputs, metrics=names).rows["target"]
    # The model that never read of the person declines; what it was taught it answers.
    assert {name: one.value for name, one in found.items()} == {
        "forget_leakage": 0.0,
        "hard_retain_answer_quality": 1.0,
        "general_retain_rejection": 0.0,
    }


def test_everything_that_is_missing_is_named(tmp_path: Path) -> None:
    shutil.copy(ROWS / "forget_2_1.jsonl", tmp_path)
    with pytest.raises(RequestError) as error:
        wpu.load(tmp_path, "forget_2_1")
    told = str(error.value)
    assert "has no forget_2_1_hard_retain or forget_2_1_hard_retain_qa file of rows; found forget_2_1.jsonl" in told
    assert "has no general_retain" in told


def test_bad_rows_are_named_with_their_lines(tmp_path: Path) -> None:
    shutil.copytree(ROWS, tmp_path, dirs_exist_ok=True)
    bad = [{"title": "A", "question": "Q?"}, {"title": "A", "question": "Q?", "answer": "x"}, {"title": "A"}]
    (tmp_path / "forget_2_1.jsonl").write_text("\n".join(map(json.dumps, bad)), encoding="utf-8")
    (tmp_path / "general_retain_qa.csv").write_text("question,answer\nQ?,A\n", encoding="utf-8")
    with pytest.raises(RequestError) as error:
        wpu.load(tmp_path, "forget_2_1")
    told = str(error.value)
    assert "2 of 3 rows cannot be used" in told
    assert "forget_2_1.jsonl:1: no answer or Answer; columns found: title, question" in told
    assert "forget_2_1.jsonl:3: no question or Question" in told
    assert "several files could be general_retain: general_retain_qa.csv, general_retain_qa.json" in told


def test_wrong_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"wpu has no split 'forget_3'"):
        wpu.load(split="forget_3")
    with pytest.raises(ConfigError, match=r"wpu has no split 'retain'"):
        wpu.load(ROWS, "retain")
    with pytest.raises(RequestError, match="is no folder with WPU's files and no dataset id"):
        wpu.build(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="scores world 'people'"):
        wpu.build(world="skills")
    with pytest.raises(UnknownNameError, match="no world 'people-11'"):
        wpu.build(world="people-11")


def test_the_hub_is_asked_for_the_right_configurations(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def read_as(source: object, *_: object) -> list[wpu._Line]:
        asked.append(str(source))
        return [wpu._Line("Orla Fenwick", Row("Q?", "A", group="Orla Fenwick"), "A page.", f"{source}:row 1")]

    monkeypatch.setattr(wpu, "read_as", read_as)
    people = wpu.load(split="forget_20_3")
    assert asked == [
        f"{wpu.HUB_ID}:forget_20_3:train",
        f"{wpu.HUB_ID}:forget_20_3_hard_retain:train",
        f"{wpu.HUB_ID}:general_retain:train",
        f"{wpu.HUB_ID}:retain:train",
    ]
    assert [row.answer for row in people.passages] == ["A page."]
    asked.clear()
    wpu.build(split="forget_100")  # what is not scored is not loaded
    assert asked == [
        f"{wpu.HUB_ID}:{name}:train" for name in ("forget_100", "forget_100_hard_retain", "general_retain")
    ]
