"""Protects what repeat_prompt says: which look-up tells that a prompt can be read, and from where."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from expunge.audits.parts import repetition
from expunge.audits.parts.nearest_tokens import NearestTokens
from expunge.audits.parts.repetition import Repeated, Repetition
from expunge.audits.repeat_prompt import RepeatPrompt
from expunge.requests import Request, Row

NOTHING = Repetition(0.0, 0.0, 0.0, 0.0, 0.0, 2, 1.0)  # no word is repeated


@pytest.mark.parametrize(
    ("nearest", "label", "says"),
    [
        (
            NearestTokens(40, 0.1, 0.2, 1.0, 0.1, 0.2, 1.0),
            "hidden",
            "by the coordinates that are the same, the best of",
        ),
        (
            NearestTokens(40, 0.1, 0.75, 0.5, 0.1, 0.75, 0.5),
            "hidden",
            "Looked up by distance, the best of three ways, 75%",
        ),
        (
            NearestTokens(40, 0.4, 0.2, 0.0, 0.4, 0.2, 0.0),
            "suppressed",
            "by direction (cosine), the best of three ways, 40%",
        ),
    ],
)
def test_the_look_up_that_tells_is_named(
    nearest: NearestTokens, label: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repetition, "repeat_prompt", lambda *_, **__: Repeated(NOTHING, None, 2, nearest))
    audited: Any = SimpleNamespace(
        target=None,
        erased=None,
        erasure=None,
        tokenizer=None,
        template="auto",
        max_length=64,
        request=Request(forget=(Row("Who is it?", "x"),)),
    )
    found = RepeatPrompt().run(audited)
    assert found.label == label
    assert says in found.sentence
    assert "0.00 of the words, where the answer to another prompt has 0.00 (2 rows). " in found.sentence
    assert found.sentence.endswith(
        "That takes access to the embeddings inside the model, which its callers do not see."
    )
