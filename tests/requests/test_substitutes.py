"""Protects the names that stand in for a subject's: they are kept with the request, and are none of its own."""

from __future__ import annotations

import pytest

from expunge.errors import RequestError
from expunge.requests.request import Request
from expunge.requests.rows import Row

ROW = Row("Who?", "Ada Moss")


def test_names_are_kept_trimmed_and_in_order() -> None:
    request = Request.load([{"question": "Who?", "answer": "Ada Moss"}], substitutes=[" Ida Voss", "Una Pell"])
    assert request.substitutes == ("Ida Voss", "Una Pell")
    assert Request((ROW,)).substitutes == ()


def test_a_name_that_must_go_cannot_stand_in() -> None:
    with pytest.raises(RequestError, match=r"substitutes: ADA MOSS, Moss must be forgotten"):
        Request((ROW,), subjects=("Ada Moss",), aliases=("Moss",), substitutes=("ADA MOSS", "Ida Voss", "Moss"))
    with pytest.raises(RequestError, match=r"substitutes: found '', expected a name"):
        Request((ROW,), substitutes=("",))
