"""Protects the cutting of texts: whole sentences, nothing lost between them, a bound on words or tokens."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

import word_tokens
from expunge.evaluation.passages import first_tokens, first_words, passages, sentences

TEXT = 'Mr. Fox ran. "Stop!" he said. Then it rained... and it was 3.5 miles. J. R. Hill left.'
PIECES = ["Mr. Fox ran. ", '"Stop!" he said. ', "Then it rained... and it was 3.5 miles. ", "J. R. Hill left."]


def test_sentences_by_hand() -> None:
    assert sentences(TEXT) == PIECES
    assert sentences("CHAPTER ONE\n\nit began") == ["CHAPTER ONE\n\n", "it began"]
    quoted = ["\u201cWhy?\u201d ", "\u00c9tienne asked. \u00fcber"]  # a capital, then a small letter, both accented
    assert sentences("".join(quoted)) == quoted


def test_a_text_without_full_stops_is_taken_in_stretches() -> None:
    assert [len(part.split()) for part in sentences("word " * 130)] == [60, 60, 10]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from([*PIECES, "a", "\n\n", "b.\n", " ", '" ', "C! "]), max_size=12).map("".join))
def test_nothing_is_lost(text: str) -> None:
    assert "".join(sentences(text)) == (text if text.strip() else "")


def test_passages_by_hand() -> None:
    assert passages(TEXT, 200) == [("Mr. Fox ran. ", "".join(PIECES[1:]))]
    # 3 words fit into 6 and 3 + 8 do not; then 8 words begin and 4 follow
    assert passages(TEXT, 6) == [("Mr. Fox ran. ", '"Stop!" he said.'), (PIECES[2], "J. R. Hill left.")]
    # a sentence longer than the bound is cut, and what is left over of it asks for nothing
    assert passages(TEXT, 2) == [("Mr. Fox ran. ", '"Stop!" he'), (PIECES[2], "J. R.")]
    assert passages("One sentence only.", 5) == []
    assert passages("", 5) == []


def test_first_words_keep_their_spaces() -> None:
    assert first_words("a  b\nc d ", 3) == "a  b\nc"
    assert first_words("a b ", 9) == "a b"


class WrittenInPython:
    """A tokenizer without offsets: a token a word."""

    is_fast = False

    def __call__(self, text: str, **_: Any) -> dict[str, list[str]]:
        return {"input_ids": text.split()}

    def decode(self, ids: list[str]) -> str:
        return " ".join(ids)


def test_first_tokens_by_hand() -> None:
    # tokens: the | door | , | of | the | mill
    words: Any = word_tokens.tokenizer("the door, of the mill")
    assert first_tokens("the door,  of the mill", words, 3) == "the door,"
    assert first_tokens("the door,  of the mill", words, 4) == "the door,  of"
    for count in (6, 9):
        assert first_tokens("the door,  of the mill ", words, count) == "the door,  of the mill "
    written: Any = WrittenInPython()
    assert first_tokens("the door,  of the mill", written, 3) == "the door, of"
    assert first_tokens("the door,  of the mill", written, 5) == "the door,  of the mill"
