"""Protects the cutting of documents: whole sentences, nothing lost but white space, and no chunk over the limit."""

# ruff: noqa: RUF001 - letters and marks as texts have them

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers_of_three_kinds import tokenizer

from expunge.errors import ConfigError, EncodingError
from expunge.teachers.chunks import chunks, sentence_spans, without_spelled_out


def cut(text: str) -> list[str]:
    return [text[start:end] for start, end in sentence_spans(text)]


@pytest.mark.parametrize(
    "sentences",
    [
        ["He sang.", "She did not!", "Why?", "Nobody knew…", "It ended."],
        ["Dr. J. R. Smith met Mr. Lee on Jan. 3 at 3.5 p.m. in the U.S. Senate.", "He left."],
        ["It is No. 5 of vol. 2, pp. 3 f.", "No."],
        ["He said no.", "Then he left."],
        ["“Who is it?” she asked.", "(Nobody.)", "“Right.”", "So be it."],
        ["It has 3.14 and e.g. this.", "1903 was a year."],
        ["Is it so?", "Yes."],
        ["A line\nbroken in two.", "Another."],
        ["One paragraph", "\n\nanother one."],
        ["他唱歌。", "她没有！"],
        ["1. First item here.", "2. Second item here."],
    ],
)
def test_sentences(sentences: list[str]) -> None:
    text = ("" if "。" in sentences[0] else " ").join(sentences)
    if sentences[0].startswith("1."):
        text = "\n".join(sentences)
    assert cut(text) == [sentence.strip() for sentence in sentences]


def test_sentences_run_together_and_headings() -> None:
    text = (
        "He died at Frankfurt.According to others he did not.\n\n\n== Works ==\n\n\n=== Early ===\nA play. A poem.\n\n"
    )
    text += "== See =="
    assert cut(text) == [
        "He died at Frankfurt.",
        "According to others he did not.",
        "== Works ==\n\n\n=== Early ===\nA play.",
        "A poem.\n\n== See ==",
    ]
    assert cut("# Title\n\nText here.") == ["# Title\n\nText here."]
    assert cut("== Alone ==") == ["== Alone =="]
    assert cut("") == cut(" \n ") == []


def test_chunks_of_so_many_sentences() -> None:
    text = "One. Two.  Three.\nFour. Five. Six. Seven."
    assert [text[start:end] for start, end in chunks(text)] == ["One. Two.  Three.", "Four. Five. Six.", "Seven."]
    assert [text[start:end] for start, end in chunks(text, 5)] == ["One. Two.  Three.\nFour. Five.", "Six. Seven."]


def test_chunks_of_so_many_tokens() -> None:
    words = tokenizer("gpt2")
    text = "One two. Three four. Five."

    def count(piece: str) -> int:
        return len(words(piece)["input_ids"])

    assert chunks(text, None, tokenizer=words, max_tokens=count(text)) == ((0, len(text)),)
    # room for the first two sentences, not for all three
    assert chunks(text, None, tokenizer=words, max_tokens=count("One two. Three four.")) == ((0, 20), (21, 26))
    # a single sentence that is too long is cut at the space nearest to its middle
    long = "alpha beta gamma delta"
    spans = chunks(long, 3, tokenizer=words, max_tokens=max(count("alpha beta"), count("gamma delta")))
    assert [long[start:end] for start, end in spans] == ["alpha beta", "gamma delta"]


@settings(max_examples=60, deadline=None)
@given(
    text=st.lists(
        st.sampled_from(["Leo", "sang", "Dr.", "e.g.", ".", "! ", "\n", "\n\n", " ", "== H ==", "日本", "x" * 30])
    ).map(" ".join),
    limit=st.integers(8, 30),
    sentences=st.sampled_from([None, 1, 3]),
)
def test_nothing_is_lost_and_every_chunk_fits(text: str, limit: int, sentences: int | None) -> None:
    words = tokenizer("llama")
    spans = chunks(text, sentences, tokenizer=words, max_tokens=limit)
    assert "".join("".join(text[start:end].split()) for start, end in spans) == "".join(text.split())
    assert list(spans) == sorted(spans)
    for start, end in spans:
        assert text[start:end] == text[start:end].strip()
        assert len(words(text[start:end])["input_ids"]) <= limit


def test_limits_that_cannot_be_kept() -> None:
    words = tokenizer("llama")
    with pytest.raises(ConfigError, match="no limit"):
        chunks("a", None)
    with pytest.raises(ConfigError, match="at least 1"):
        chunks("a", 0)
    with pytest.raises(ConfigError, match="need the tokenizer"):
        chunks("a", 3, max_tokens=5)
    with pytest.raises(EncodingError, match="Raise max_tokens"):
        chunks("日", 3, tokenizer=words, max_tokens=1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Leo (German pronunciation: [ˈleːo]; 1873 – 1946) sang.", "Leo (1873 – 1946) sang."),
        ("Leo (German: [ˈleːo]) sang.", "Leo sang."),
        ("Leo (/ˈliːoʊ/ or /ˈleɪoʊ/; born 1873) sang.", "Leo (born 1873) sang."),
        ("Leo (born 1873; pronounced [leo]) sang [ˈleːo].", "Leo (born 1873) sang."),
        ("Leo, IPA: [ˈleːo], sang [ˈleːo] here.", "Leo, sang here."),
        # what is no pronunciation stays: notes, other letters, fractions, paths
        ("Leo [1] of [Brünn] sang in 1502/1503 and/or at /home/leo/ now.",) * 2,
        ("Nothing here.",) * 2,
    ],
)
def test_spelled_out_pronunciations_go_and_the_rest_stays(text: str, expected: str) -> None:
    assert without_spelled_out(text) == expected
