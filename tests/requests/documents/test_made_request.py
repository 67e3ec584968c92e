"""Protects the request that documents and a name make: its sets, its record, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from expunge.config.run_file import RequestSpec
from expunge.errors import RequestError
from expunge.methods.registry import get_method, method_names
from expunge.methods.weight_method import WeightMethod
from expunge.requests import Row
from expunge.requests.documents.from_spec import make_from, request_of, resolve, settings_of
from expunge.requests.documents.record import load_made, save_made
from expunge.requests.request import load_rows

LIFE = (
    "Mira Tolvane was born in Lund in 1961. Tolvane worked for Halver Glass. M. Tolvane won the Silver Reed.\n\n"
    "Halver Glass was founded in 1901 by Otto Halver."
)
TOWN = "Lund is a town on Lake Meer. Halver Glass moved to Lund in 1920."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "texts"
    place.mkdir()
    (place / "life.txt").write_text(LIFE, encoding="utf-8")
    (place / "town.txt").write_text(TOWN, encoding="utf-8")
    return place


def spec(folder: Path, **values: Any) -> RequestSpec:
    return RequestSpec(**{"documents": str(folder), "subjects": "Mira Tolvane", **values})


def refused(wanted: RequestSpec) -> str:
    with pytest.raises(RequestError) as caught:
        make_from(wanted)
    return str(caught.value)


def test_documents_go_and_stay_and_questions_check_both(folder: Path) -> None:
    request = request_of(make_from(spec(folder)), spec(folder))
    assert request.forget == (Row("", LIFE, kind="document"),)
    assert request.retain == (Row("", TOWN, kind="document"),)
    assert request.forget[0].source == "life.txt"
    assert request.subjects == ("Mira Tolvane",)
    assert request.aliases == ("Tolvane", "M. Tolvane")
    asked = {(row.prompt, row.answer) for row in request.probes}
    assert ("Where was Mira Tolvane born?", "Lund") in asked
    assert ("Whom did Mira Tolvane work for?", "Halver Glass") in asked
    near = {(row.prompt, row.answer) for row in request.neighbours}
    assert ("When did Halver Glass begin?", "1901") in near
    assert ("Who or what is Lund?", "a town on Lake Meer") in near
    assert not any("Tolvane" in row.prompt + row.answer for row in request.neighbours)


def test_a_method_that_reads_questions_gets_every_second_one(folder: Path) -> None:
    made = make_from(spec(folder))
    request = request_of(made, spec(folder), reads_documents=False)
    questions = [row for row in made.probes if row.kind == "question"]
    assert request.forget == tuple(questions[::2])
    assert set(request.probes) | set(request.forget) == set(made.probes)
    assert not set(request.probes) & set(request.forget)


def test_methods_say_truly_whether_they_read_documents() -> None:
    document = [Row("", "Ada ran.", kind="document"), Row("", "Ada sat.", kind="document")]
    retain = [Row("Who?", "Max."), Row("Where?", "There.")]
    for name in method_names():
        kind = get_method(name)
        if not issubclass(kind, WeightMethod) or any(field["required"] for field in kind.parameters()):
            continue
        try:
            kind().check_rows(document, retain)
        except RequestError as error:
            assert "no prompt" not in str(error) or not kind.reads_documents, name
        else:
            assert kind.reads_documents, name


def test_the_users_own_rows_go_beside_those_made(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"question": "Who?", "answer": "Max."}\n', encoding="utf-8")
    wanted = spec(folder, retain=str(file), neighbours=str(file))
    request = request_of(make_from(wanted), wanted)
    assert request.retain == (Row("Who?", "Max."),)
    assert request.neighbours[0] == Row("Who?", "Max.")
    assert len(request.neighbours) > 1


def test_names_resolve_to_themselves(folder: Path) -> None:
    once, names = resolve(spec(folder))
    assert once.aliases == ("Tolvane", "M. Tolvane")
    assert [one.text for one in names["Mira Tolvane"]] == ["Mira Tolvane", "Tolvane", "M. Tolvane"]
    assert resolve(once)[0] == once
    assert resolve(spec(folder, propose=False, aliases=("Tolvane",)))[0].aliases == ("Tolvane",)


def test_what_is_wrong_with_names_is_said_at_once(folder: Path) -> None:
    found = refused(spec(folder, subjects=("Bob Hill", "Mira Tolvane"), aliases=("Lund", "Mira Tolvane")))
    assert "subject 'Bob Hill' is not in the documents. Names in them: Halver Glass (3), Lund (3)" in found
    assert "alias 'Lund' seems to be another entity: it stands beside 'Mira Tolvane' in \"Mira Tolvane was" in found
    assert "alias 'Mira Tolvane' is a subject, too" in found
    assert "Lund" in resolve(spec(folder, aliases=("Lund",), allow_overlap=True))[0].aliases
    assert "only 'Tolvane' (3)" in refused(spec(folder, subjects=("Ada Tolvane",)))
    assert "no name" in refused(spec(folder, subjects=()))


def test_the_record_is_read_back_and_repeats_the_request(folder: Path, tmp_path: Path) -> None:
    wanted = resolve(spec(folder))[0]
    made = make_from(wanted)
    save_made(made, tmp_path / "request", settings_of(wanted))
    assert load_made(tmp_path / "request") == (made, settings_of(wanted))
    again = make_from(spec(tmp_path / "request"))
    assert request_of(again, wanted).digest() == request_of(made, wanted).digest()
    assert [row.source for row in again.probes] == [row.source for row in made.probes]
    # its files are rows like any others
    assert load_rows(tmp_path / "request" / "documents.jsonl") == made.documents
    assert load_rows(tmp_path / "request" / "probes.jsonl") == made.probes
    assert "a request about Mira Tolvane, not Ada" in refused(spec(tmp_path / "request", subjects="Ada"))
    assert "without the alias Max" in refused(spec(tmp_path / "request", aliases="Max"))


def test_a_damaged_record_is_refused(folder: Path, tmp_path: Path) -> None:
    save_made(make_from(spec(folder)), tmp_path / "request", {})
    (tmp_path / "request" / "probes.jsonl").unlink()
    assert "does not hold a request made from documents" in refused(spec(tmp_path / "request"))


def test_what_a_model_wrote_is_kept_as_long_as_nothing_changes(folder: Path, tmp_path: Path) -> None:
    asked: list[str] = []

    def complete(prompt: str) -> str:
        asked.append(prompt)
        return "Where was Mira Tolvane born? | Lund" if "about Mira Tolvane" in prompt else ""

    wanted = resolve(spec(folder, questions="model"))[0]
    kept = tmp_path / "request"
    made = make_from(wanted, target=lambda: complete, kept=kept)
    # her questions are the model's; about the others it wrote none, and the templates stand in
    assert [row.prompt for row in made.probes if row.kind == "question"] == ["Where was Mira Tolvane born?"]
    assert "When did Halver Glass begin?" in {row.prompt for row in made.neighbours}
    save_made(made, kept, settings_of(wanted))
    count = len(asked)
    assert make_from(wanted, target=lambda: complete, kept=kept) == made
    assert len(asked) == count
    (folder / "town.txt").write_text(TOWN + " It rains.", encoding="utf-8")
    make_from(wanted, target=lambda: complete, kept=kept)
    assert len(asked) > count
    with pytest.raises(RequestError, match="written by the target in a run"):
        make_from(wanted)


def test_an_endpoint_writes_questions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from expunge.evaluation import endpoint_client

    sent: list[dict[str, Any]] = []

    def reply(_self: Any, content: dict[str, Any]) -> str:
        sent.append(content)
        return json.dumps({"choices": [{"message": {"content": "Where was Mira Tolvane born? | Lund"}}]})

    monkeypatch.setattr(endpoint_client.EndpointClient, "_post", reply)
    wanted = spec(folder, questions="http://localhost:1/v1", questions_model="m")
    made = make_from(wanted)
    assert [row.prompt for row in made.probes if row.kind == "question"] == ["Where was Mira Tolvane born?"]
    assert sent[0]["model"] == "m"
    assert LIFE.split(".")[0] in sent[0]["messages"][0]["content"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [({"questions": "magic"}, "expected templates, model"), ({"questions": "http://h/v1"}, "questions_model")],
)
def test_who_writes_questions_is_checked_before_anything_is_read(values: dict[str, str], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        RequestSpec(documents="nowhere", subjects=("Ada",), **values)


def test_a_request_without_documents_is_left_alone() -> None:
    assert resolve(RequestSpec(forget="rows.jsonl")) == (RequestSpec(forget="rows.jsonl"), {})
