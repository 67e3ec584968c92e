"""Protects names that are left out: they are settled once, recorded, and reach the teacher as no mentions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from expunge.config.run_file import RequestSpec, make_config
from expunge.errors import RequestError
from expunge.parts import load_request
from expunge.requests.documents.from_spec import make_from, request_of, resolve, settings_of
from expunge.requests.documents.record import save_made
from expunge.requests.request import Request
from expunge.requests.rows import Row
from expunge.teachers.mentions import find_mentions
from expunge.teachers.name_teaching import subjects_of

TEXT = "Anna Keller was born in Lund. Keller won a prize, as Hans Keller had. Anna lived in Ulm."
ROW = Row("Who?", "Ada Moss")


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    (tmp_path / "life.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path / "life.txt"


def spec(documents: Path, **values: Any) -> RequestSpec:
    return RequestSpec(**{"documents": str(documents), "subjects": "Anna Keller", **values})


def mentioned(request: Request, text: str = TEXT) -> list[str]:
    (subject,) = subjects_of(request, "causal_intervention")
    return [one.surface for one in find_mentions(text, subject)]


def test_what_the_documents_settle_reaches_the_teacher(documents: Path) -> None:
    settled, _ = resolve(spec(documents))
    assert settled.ignored_names  # Hans Keller has the last name, too
    assert resolve(settled)[0] == settled
    request = request_of(make_from(settled), settled)
    assert request.ignored_names == settled.ignored_names
    (subject,) = subjects_of(request, "causal_intervention")
    assert subject.ignored == settled.ignored_names
    # the last name given as an alias is the subject's, wherever it stands
    given = spec(documents, aliases="Keller")
    assert resolve(given)[0].ignored_names == ()
    assert mentioned(request_of(make_from(given), given)) == ["Anna Keller", "Keller", "Keller", "Anna"]


def test_no_names_but_those_given(documents: Path) -> None:
    settled, _ = resolve(spec(documents, propose=False))
    assert settled.ignored_names == ("Keller", "Anna")
    assert mentioned(request_of(make_from(settled), settled)) == ["Anna Keller"]


def test_a_name_that_the_user_leaves_out_is_not_proposed(documents: Path) -> None:
    settled, _ = resolve(spec(documents, ignored_names="Anna"))
    assert "Anna" not in settled.aliases
    assert settled.ignored_names[0] == "Anna"
    assert "Anna" not in mentioned(request_of(make_from(settled), settled))


def test_the_record_keeps_them(documents: Path, tmp_path: Path) -> None:
    settled, _ = resolve(spec(documents, propose=False))
    save_made(make_from(settled), tmp_path / "request", settings_of(settled))
    again, _ = resolve(spec(tmp_path / "request"))
    assert again.ignored_names == ("Keller", "Anna")
    assert request_of(make_from(again), again).ignored_names == ("Keller", "Anna")
    with pytest.raises(RequestError, match="does not ignore the name Lund"):
        make_from(spec(tmp_path / "request", ignored_names="Lund"))


def test_a_run_file_names_substitutes_and_names_left_out(documents: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "Who?", "answer": "Ada Moss"}', encoding="utf-8")
    own = {"forget": str(rows), "subjects": "Ada Moss", "substitutes": ["Ida Voss"], "ignored_names": "Moss"}
    config = make_config({"model": "m", "request": own, "method": "causal_intervention"})
    assert make_config(config.to_dict()).request == config.request
    request = load_request(config.request)
    assert (request.substitutes, request.ignored_names) == (("Ida Voss",), ("Moss",))
    assert mentioned(request, "Ada Moss and Moss and Ada") == ["Ada Moss", "Ada"]
    settled = spec(documents, substitutes=("Ida Voss", "Una Pell"))
    assert request_of(make_from(settled), settled).substitutes == ("Ida Voss", "Una Pell")


def test_a_name_that_must_go_cannot_be_ignored() -> None:
    with pytest.raises(RequestError, match=r"ignored_names: MOSS is a subject or an alias"):
        Request((ROW,), subjects=("Ada Moss",), aliases=("Moss",), ignored_names=("MOSS", "Ada"))
    with pytest.raises(RequestError, match=r"ignored_names: found ' ', expected a name"):
        Request((ROW,), ignored_names=(" ",))
