"""Protects names that may be another's: what documents tell of them, and that rows and teachers read them alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from expunge.config.run_file import RequestSpec
from expunge.errors import RequestError
from expunge.requests.documents.aliases import Alias, others_with, propose_aliases
from expunge.requests.documents.from_spec import make_from, request_of, resolve
from expunge.requests.documents.make import resolve_names
from expunge.requests.documents.reading import Document
from expunge.requests.rows import Row
from expunge.teachers.mentions import find_mentions
from expunge.teachers.name_teaching import subjects_of, unswapped
from expunge.teachers.names import Subject

LIFE = (
    "Mira Tolvane was born in Lund to Hans Tolvane. Dr. Tolvane sang, and Tolvane's songs were sung. "
    "In Paris Tolvane met Ada Reed. On Monday Tolvane left."
)


def documents(*texts: str) -> tuple[Document, ...]:
    return tuple(Document(text, f"{number}.txt") for number, text in enumerate(texts, 1))


def proposed(text: str, name: str = "Mira Tolvane") -> dict[str, Alias]:
    return {one.text: one for one in propose_aliases(documents(text), name)}


def known_as(text: str) -> list[str]:
    return [one.text for one in proposed(text).values() if one.kind == "known as"]


def test_a_shared_last_name_is_the_subjects_but_after_anothers_first_name() -> None:
    assert others_with(documents(LIFE), "Mira Tolvane") == ("Hans Tolvane",)
    # "In Paris Tolvane", "On Monday Tolvane" and "Dr. Tolvane" hold no first name
    assert proposed(LIFE)["Tolvane"].warning == "also in Hans Tolvane (1), and a mention where it stands alone"
    assert others_with(documents(LIFE), "Mira Tolvane", ["Tolvane"]) == ()
    assert others_with(documents("Mira Tolvane and the Tolvane Prize."), "Mira Tolvane") == ()


def test_rows_and_teacher_have_one_rule(tmp_path: Path) -> None:
    texts = {"life": LIFE, "talk": "Ms. Tolvane spoke with Ada Reed.", "father": "Hans Tolvane was a smith."}
    for name, text in texts.items():
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    spec = RequestSpec(documents=str(tmp_path), subjects=("Mira Tolvane",))
    request = request_of(make_from(spec), spec)
    (subject,) = subjects_of(request, "causal_intervention")
    for row in request.forget:
        assert find_mentions(row.answer, subject), row.source
    for row in request.retain:
        assert not find_mentions(row.answer, subject), row.source
    assert [row.source for row in request.retain] == ["father.txt"]
    # the full name, and Tolvane after "Dr.", before "'s", after "Paris" and after "Monday"
    assert [one.form for one in find_mentions(LIFE, subject)] == ["full", *["last"] * 4]


def test_a_common_word_is_no_name_where_it_begins_a_sentence(tmp_path: Path) -> None:
    # in small letters twice ("will"), with a capital within a sentence once ("as Will"): the word is the commoner one
    (tmp_path / "life.txt").write_text("Will Tolvane ran, as Will will. Will it rain? It will.", encoding="utf-8")
    (tmp_path / "talk.txt").write_text("Will it snow?", encoding="utf-8")
    spec = RequestSpec(documents=str(tmp_path), subjects=("Will Tolvane",))
    request = request_of(make_from(spec), spec)
    assert [row.source for row in request.forget] == ["life.txt"]
    (subject,) = subjects_of(request, "causal_intervention")
    assert subject.common == ("Will",)
    assert [one.start for one in find_mentions(request.forget[0].answer, subject)] == [0, 21]


def test_the_teacher_says_what_it_leaves_alone() -> None:
    text = "Will Tolvane ran, as Will will. Will it rain? It will. Hans Tolvane sat."
    subject = Subject("Will Tolvane", ignored=("Hans Tolvane",), common=("Will",))
    # mentions: "Will Tolvane" and "as Will"; not swapped: "Will it" and "Hans Tolvane"
    assert unswapped(subject, [Row("", text, kind="document")]) == (
        "2 of 4 mentions are not swapped for 'Will Tolvane': 1 of 'Hans Tolvane', 1 of 'Will' at the beginning of a "
        "sentence, where it may be the common word. Where 'Tolvane' alone stands it is swapped, though it may mean one "
        "of them."
    )
    assert unswapped(Subject("Ada Reed"), [Row("", text, kind="document")]) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('Mira Tolvane (born 3 May 1951 in Harrow Bay; also known as "Minnie Vale") sang.', ["Minnie Vale"]),
        ("Mira Tolvane sang. She was also known as Minnie Vale.", ["Minnie Vale"]),
        ("Mira Tolvane sang. Her friends called her Minnie.", ["Minnie"]),
        ("Mira Tolvane sang. Her sister Eva called her Minnie.", ["Minnie"]),
        ("Mira Tolvane worked in Ulm and was known as Minnie.", ["Minnie"]),
        ("Mira Tolvane (Lund dialect: Tolvan; born Minnie Vale, 3 May 1951) sang.", ["Minnie Vale"]),
        ("Mira Tolvane sang. Tolvane was born Minnie Tolvan in Lund.", ["Minnie Tolvan"]),
        ("Mira Tolvane sang. Tolvane was born May 3 in Lund. She was born in Ulm.", []),
        # somebody else is named right before, or the pronoun may mean anybody
        ("Mira Tolvane met Otto Brenn, known as Red. She met Max Lind, whose friends called him Hug.", []),
        ("Mira Tolvane met Otto Brenn (born in Ulm; known as Red).", []),
        ("Otto Brenn met Mira Tolvane. He was known as Red.", []),
        ("Mira Tolvane sang.\n\nShe was known as Red.", []),
    ],
)
def test_names_that_sentences_about_the_subject_tell(text: str, expected: list[str]) -> None:
    assert known_as(text) == expected


def test_a_title_does_not_end_a_sentence() -> None:
    text = "Hans Tolvane was her father. Tolvane died. Dr. Tolvane and Father Tolvane lived, as did Mira Tolvane."
    assert {one.text for one in proposed(text).values() if one.kind == "title"} == {"Dr. Tolvane", "Father Tolvane"}


def test_an_alias_that_is_somebody_else_is_refused() -> None:
    texts = documents("Mira Tolvane sang.", "Otto Brenn was a baker. Otto Brenn's son ran. Minnie laughed.")
    with pytest.raises(
        RequestError, match=r"'Otto Brenn' seems to be another entity: 1 sentence begins with it .*2\.txt"
    ):
        resolve_names(texts, ["Mira Tolvane"], ["Otto Brenn"])
    aliases, names = resolve_names(texts, ["Mira Tolvane"], ["Otto Brenn"], allow_overlap=True)
    assert aliases == ("Otto Brenn",)
    warned = {one.text: one.warning for one in names["Mira Tolvane"]}
    assert warned["Otto Brenn"].startswith('the documents do not say whose it is: ".. Otto Brenn was a baker.')
    # one word may be a nickname: the user is told where it stands
    _, names = resolve_names(texts, ["Mira Tolvane"], ["Minnie"])
    assert "Minnie laughed" in next(one.warning for one in names["Mira Tolvane"] if one.text == "Minnie")
    # where the documents tell that it is hers, nothing is in doubt
    told = documents("Mira Tolvane wrote as Ada Reed. Ada Reed sang.")
    _, names = resolve_names(told, ["Mira Tolvane"], ["Ada Reed"])
    assert not any(one.warning for one in names["Mira Tolvane"])


def test_an_alias_that_is_nowhere_is_doubted(tmp_path: Path) -> None:
    (tmp_path / "life.txt").write_text("Mira Tolvane sang by the sea.", encoding="utf-8")
    wanted = RequestSpec(documents=str(tmp_path), subjects=("Mira Tolvane",), aliases=("river", "Mira"))
    settled, names = resolve(wanted)
    assert settled.aliases == ("river", "Mira")
    warned = {one.text: (one.count, one.warning) for one in names["Mira Tolvane"]}
    # "Mira" stands in the longer name alone, and is no typing error
    assert warned["river"] == (0, "0 matches in the documents, probably a typing error")
    assert warned["Mira"] == (0, "")
