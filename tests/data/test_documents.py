"""Protects long documents: cut into pieces that fit the model, and nothing of their text is lost."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ByT5Tokenizer

import zoo
from expunge.data.documents import split_documents
from expunge.data.encode import encode_all
from expunge.data.template import Template
from expunge.requests.rows import Row
from zoo_text import corpus

TEXT = "\n\n".join(corpus()) + " 🙂🙃 Zoë's e\u0301tudes\tunbelievably\n"
cached = cache(zoo.tokenizer)


def pieces(text: str, tokenizer: Any, max_length: int) -> tuple[Row, ...]:
    return split_documents([Row("", text, kind="document", source="a.txt:1")], tokenizer, max_length)


def longest(rows: tuple[Row, ...], tokenizer: Any) -> int:
    """Tokens of the longest row as it will be trained on, its BOS and end token included."""
    examples = encode_all(tokenizer, Template.of(tokenizer), rows, max_length=10**6)
    assert not any(example.truncated for example in examples)
    return max(len(example.input_ids) for example in examples)


@pytest.mark.parametrize("family", zoo.FAMILIES)
@pytest.mark.parametrize("max_length", [12, 100, 512])
def test_pieces_fit_and_join_to_the_document(family: str, max_length: int) -> None:
    tokenizer = cached(family)
    rows = pieces(TEXT, tokenizer, max_length)
    joined = "".join(row.answer for row in rows)
    if max_length == 12:  # pieces so short that some would be a single space
        assert "".join(joined.split()) == "".join(TEXT.split())
    else:
        assert joined == TEXT
    assert longest(rows, tokenizer) <= max_length
    assert [row.source for row in rows] == [f"a.txt:1#{n}" for n in range(1, len(rows) + 1)]
    assert {row.kind for row in rows} == {"document"}
    # Few and full: at most 8 tokens of each are left free, so the text needs at most this many pieces (and some slack).
    count = len(tokenizer(TEXT)["input_ids"])
    assert len(rows) <= 1.4 * count / (max_length - 8) + 1


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2", "qwen2", "stablelm", "gemma2"])
@settings(max_examples=25, deadline=None)
@given(
    text=st.text(st.sampled_from("abc eE\u0301\u0308ñ日本🙂👩\u200d🚀.,'1\n\t "), min_size=1, max_size=120),
    max_length=st.integers(5, 30),
)
def test_any_text_in_pieces(family: str, text: str, max_length: int) -> None:
    tokenizer = cached(family)
    rows = pieces(text, tokenizer, max_length)
    # White space that would fill a piece of its own is left out; all else is there, in order.
    assert "".join("".join(row.answer for row in rows).split()) == "".join(text.split())
    for row in rows:
        # One character can take more tokens than fit; all other pieces fit, with an end token.
        assert len(tokenizer(row.answer)["input_ids"]) < max_length or len(row.answer) == 1


def test_a_document_that_fits_is_left_alone() -> None:
    tokenizer = cached("llama")
    row = Row("", "Mira was born in Kuopio.", kind="document", source="a.txt:1")
    ((example),) = encode_all(tokenizer, Template.of(tokenizer), [row], max_length=512)
    needed = len(example.input_ids)
    assert split_documents([row], tokenizer, needed)[0] is row
    assert len(split_documents([row], tokenizer, needed - 1)) > 1


def test_other_rows_pass_through_in_their_places() -> None:
    tokenizer = cached("gpt2")
    question, completion = Row("Where? " * 50, "Here."), Row("It is " * 50, "so", kind="completion")
    document = Row("", TEXT[:400], kind="document", source="a.txt:7")
    rows = split_documents([question, document, completion], tokenizer, 50)
    assert rows[0] is question
    assert rows[-1] is completion
    assert len(rows) > 3
    assert all(row.kind == "document" for row in rows[1:-1])


def test_a_tokenizer_without_offsets_gets_pieces_too() -> None:
    tokenizer = ByT5Tokenizer()  # one token a byte
    text = "Mira Tolvanen was born in Kuopio, Finland. " * 20
    rows = pieces(text, tokenizer, 100)
    assert "".join(row.answer for row in rows) == text
    assert longest(rows, tokenizer) <= 100
    assert all(row.answer[0] == " " for row in rows[1:])  # cut between words
    assert len(rows) <= 16  # halved until it fits: 860 bytes, 16 pieces of 54
