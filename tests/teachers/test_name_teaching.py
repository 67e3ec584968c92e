"""Protects the student's rows and whose names are swapped in them, and that a teacher is kept and found again."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from expunge.data.encode import encode_all
from expunge.data.template import Template
from expunge.errors import ConfigError, InputError, RequestError
from expunge.requests import Request, Row
from expunge.teachers.build import Teacher, build_teacher, made_teacher
from expunge.teachers.name_teaching import NameTeaching, subjects_of
from expunge.teachers.names import Subject
from expunge.teachers.prompt_teaching import PromptTeaching
from expunge.training.run import Run

MARTA, OTTO = Subject("Marta Quill"), Subject("Otto Brenn")
PASSAGE = "Marta Quill lived by the river. She sold boats. Quill was known. She was old. The town was small."
DOCUMENT = Row("", PASSAGE, "document", source="a.txt:1")
QUESTION = Row("Where did Marta Quill live?", "By the river.", source="q.jsonl:1")


def student(
    teaching: Any, rows: list[Row], family: str = "llama", style: Any = "plain", length: int = 256
) -> list[Row]:
    tokenizer = zoo.tokenizer(family)
    return list(teaching.rows(rows, tokenizer, Template.of(tokenizer, style), length))


def test_documents_are_cut_into_chunks_behind_the_lead_in() -> None:
    rows = student(NameTeaching((MARTA,), sentences=2), [DOCUMENT])
    assert [row.answer for row in rows] == [
        "\nMarta Quill lived by the river. She sold boats.",
        "\nQuill was known. She was old.",
        "\nThe town was small.",
    ]
    assert {row.prompt for row in rows} == {"Complete the following passage about Marta Quill."}
    assert [row.source for row in rows] == ["a.txt:1#1", "a.txt:1#2", "a.txt:1#3"]
    assert {row.kind for row in rows} == {"completion"}


def test_a_chat_model_is_given_the_lead_in_as_a_turn() -> None:
    (first, *_) = student(NameTeaching((MARTA,)), [DOCUMENT], "qwen2", "chat")
    assert (first.kind, first.prompt) == ("chat", "Complete the following passage about Marta Quill.")
    assert first.answer.startswith("Marta Quill lived")


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_every_kind_of_tokenizer_and_template_gives_a_teacher(family: str) -> None:
    tokenizer, teaching = zoo.tokenizer(family), NameTeaching((MARTA,), ("Ida Vandermeer", "Bo Li"))
    teacher = made_teacher(teaching, zoo.model(family), tokenizer, [DOCUMENT, QUESTION], Run())
    assert len(teacher.rows) == 3  # chunks of 3 and 2 sentences, and the question
    for number, example in enumerate(teacher.examples):
        places, targets = teacher.store.of(number)
        assert len(places) > example.answer_length / 3
        assert 0 <= int(places.min()) <= int(places.max()) < example.answer_length
        torch.testing.assert_close(targets.dense().sum(-1), torch.ones(len(places)))


def test_without_a_lead_in_chunks_are_documents() -> None:
    rows = student(NameTeaching((MARTA,), lead_in="", sentences=5), [DOCUMENT])
    assert [(row.kind, row.prompt, row.answer) for row in rows] == [("document", "", PASSAGE)]


def test_no_chunk_is_longer_than_a_row_may_be() -> None:
    tokenizer = zoo.tokenizer("llama")
    long = DOCUMENT.with_answer(PASSAGE.replace(".", ",") * 6)
    rows = student(NameTeaching((MARTA,)), [long], length=80)
    examples = encode_all(tokenizer, Template.of(tokenizer, "plain"), rows, max_length=512)
    assert max(len(example.input_ids) for example in examples) <= 80
    assert "".join(row.answer.strip().replace(" ", "") for row in rows) == long.answer.replace(" ", "")


def test_rows_that_mention_nobody_are_left_out_and_said(caplog: pytest.LogCaptureFixture) -> None:
    teaching = NameTeaching((MARTA,), ("Ida Vandermeer",))
    other = Row("Who sold boats?", "A woman.", source="q.jsonl:2")
    with caplog.at_level(logging.WARNING, "expunge"):
        made_teacher(teaching, zoo.model("llama"), zoo.tokenizer("llama"), [QUESTION, other], Run())
    assert "1 of 2 forget rows mention no subject and are left out: q.jsonl:2" in caplog.text
    with pytest.raises(RequestError, match="none of the 1 forget rows mentions 'Marta Quill'"):
        student(teaching, [other])


def test_substitutes_that_are_forget_names_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'Otto Brenn'.*'Quill'"):
        NameTeaching((MARTA, OTTO), ("Ida Vandermeer", "Otto Brenn", "Quill"))


def test_a_request_must_name_somebody_and_aliases_go_to_whom_they_fit() -> None:
    with pytest.raises(RequestError, match="--subject NAME"):
        subjects_of(Request(forget=(QUESTION,)), "causal_intervention")
    request = Request(forget=(QUESTION,), subjects=("Marta Quill", "Otto Brenn"), aliases=("Old Brenn", "The Ferryman"))
    first, second = subjects_of(request, "x", {"Boats": ("Ships",)})
    assert (first.aliases, second.aliases) == (("The Ferryman",), ("Old Brenn",))
    assert first.others == (("Boats", ("Ships",)),)


def taught_by(teaching: NameTeaching, rows: list[Row], **given: Any) -> Teacher:
    return made_teacher(teaching, zoo.model("llama"), zoo.tokenizer("llama"), rows, Run(), **given)


def test_two_subjects_are_both_swapped_in_a_row_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    import expunge.teachers.plans as plans

    real = plans.swap
    monkeypatch.setattr(plans, "swap", lambda *given: asked.append(real(*given).text) or real(*given))
    row = Row("Who knew Marta Quill?", "Otto Brenn did.")
    taught_by(NameTeaching((MARTA, OTTO), ("Ida Vandermeer", "Bo Li")), [row])
    assert asked == [
        "Question: Who knew Ida Vandermeer?\nAnswer: Bo Li did.",
        "Question: Who knew Bo Li?\nAnswer: Ida Vandermeer did.",
    ]


def test_invented_people_are_taught_what_the_target_says() -> None:
    teacher = taught_by(NameTeaching((MARTA,), ("Ida Vandermeer",), non_factual=2, lead_in=""), [DOCUMENT])
    invented = [number for number, row in enumerate(teacher.rows) if row.source.startswith("invented")]
    assert len({row.source.split("#")[0] for row in teacher.rows if row.source.startswith("invented")}) == 2
    model = zoo.model("llama")
    for number in invented:
        places, targets = teacher.store.of(number)
        example = teacher.examples[number]
        assert places.tolist() == list(range(example.answer_length))  # every token, the end too
        said = model(torch.tensor([example.input_ids])).logits[0, example.answer_start - 1 : -1].softmax(-1)
        torch.testing.assert_close(targets.dense(), said.detach(), atol=2e-3, rtol=2e-2)
        assert "Quill" not in teacher.rows[number].answer


def test_a_teacher_is_kept_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: Any = (zoo.model("llama"), zoo.tokenizer("llama"), [PASSAGE], MARTA)
    first = build_teacher(*given, ("Ida Vandermeer", "Bo Li"), folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [path.name for path in tmp_path.glob("teacher-*")]
    monkeypatch.setattr("expunge.teachers.build.ask", None)  # is not asked again
    again = build_teacher(*given, ("Ida Vandermeer", "Bo Li"), folder=tmp_path)
    assert torch.equal(first.store.targets.dense(), again.store.targets.dense())
    assert (first.store.counts, first.store.lost) == (again.store.counts, again.store.lost)
    with pytest.raises(TypeError):  # other names are
        build_teacher(*given, ("Ida Vandermeer", "Rose Tamm"), folder=tmp_path)


def test_one_row_of_the_student_can_be_made_alone() -> None:
    teaching = NameTeaching((MARTA,), ("Ida Vandermeer",), sentences=2)
    whole, alone = taught_by(teaching, [DOCUMENT]), taught_by(teaching, [DOCUMENT], row=1)
    assert alone.rows == whole.rows[1:2]
    torch.testing.assert_close(alone.store.targets.dense(), whole.store.of(1)[1].dense(), atol=1e-4, rtol=1e-2)
    with pytest.raises(InputError, match="there is no row 4: the student has 3 rows"):
        taught_by(teaching, [DOCUMENT], row=3)


def test_an_instruction_stands_before_what_is_asked() -> None:
    teaching = PromptTeaching("You never met {subjects}.", ("Marta Quill",))
    assert teaching.told(QUESTION).prompt == "You never met Marta Quill.\n\nWhere did Marta Quill live?"
    chat = Row("And then?", "Boats.", "chat", history=(("user", "Hello"), ("assistant", "Hi")))
    assert teaching.told(chat).history == (("user", "You never met Marta Quill.\n\nHello"), ("assistant", "Hi"))
    told = teaching.told(DOCUMENT)
    assert (told.kind, told.prompt, told.answer) == ("completion", "You never met Marta Quill.", "\n\n" + PASSAGE)
    with pytest.raises(RequestError, match="--subject NAME"):
        PromptTeaching("You never met {subjects}.", ())


def test_the_instructed_target_teaches_the_rows_own_answer() -> None:
    model, tokenizer = zoo.model("llama"), zoo.tokenizer("llama")
    teaching = PromptTeaching("You never met {subjects}.", ("Marta Quill",))
    teacher = made_teacher(teaching, model, tokenizer, [QUESTION], Run(template="plain"))
    places, targets = teacher.store.of(0)
    (example,) = teacher.examples
    assert places.tolist() == list(range(example.answer_length))
    template = Template.of(tokenizer, "plain")
    (told,) = encode_all(tokenizer, template, [teaching.told(QUESTION)], max_length=512)
    said = model(torch.tensor([told.input_ids])).logits[0, told.answer_start - 1 : -1].softmax(-1)
    torch.testing.assert_close(targets.dense(), said.detach(), atol=2e-3, rtol=2e-2)
