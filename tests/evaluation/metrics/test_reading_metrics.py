"""Protects the scores of reading answers: each language's normal form, exact and contained spans, F1 by hand."""

from __future__ import annotations

import pytest

from expunge.errors import ControlError
from expunge.evaluation.metric import SetMetric
from expunge.evaluation.reading import LANGUAGES, ReadingRow, contains, f1, first_line, words_of
from expunge.evaluation.registry import get_metric
from expunge.evaluation.types import RowOutputs, SetOutputs
from expunge.requests.rows import Row


@pytest.mark.parametrize(
    ("language", "text", "words"),
    [
        ("en", "The Panthers' defense, in a hurry!", ["panthers", "defense", "in", "hurry"]),
        ("en", "another theatre", ["another", "theatre"]),  # articles are whole words
        ("de", "Die Straße des Öls", ["straße", "öls"]),
        ("de", "the der", ["the"]),  # an English article is none in German
        ("es", "¿La casa de los niños?", ["casa", "de", "niños"]),
        ("vi", "những cuốn sách của tôi", ["cuốn", "sách", "tôi"]),
        ("hi", "३०८ अंक।", ["३०८", "अंक"]),  # no articles; the danda is punctuation
        ("ar", "القط والبيت", ["قط", "و", "بيت"]),  # taken off wherever it stands, as the published scores do
        ("zh", "308分\uff0c第六。", ["308", "分", "第", "六"]),  # characters are words, digits stay together
        ("zh", "NFL 职业碗", ["nfl", "职", "业", "碗"]),
    ],
)
def test_normal_form(language: str, text: str, words: list[str]) -> None:
    assert list(words_of(text, language)) == words


def test_f1_by_hand() -> None:
    # precision 2/3, recall 2/4: 2 * (2/3 * 1/2) / (2/3 + 1/2) = (2/3) / (7/6) = 4/7
    assert f1(["a", "b", "c"], ["a", "b", "x", "y"]) == pytest.approx(4 / 7)
    # a word counts as often as it stands in both: 1 in common, precision 1/2, recall 1/1
    assert f1(["a", "a"], ["a"]) == pytest.approx(2 / 3)
    assert f1(["a"], ["b"]) == f1([], ["b"]) == 0.0


def test_contained_means_in_one_piece_and_whole_words() -> None:
    assert contains(["it", "was", "new", "york", "then"], ["new", "york"])
    assert not contains(["new", "and", "york"], ["new", "york"])
    assert not contains(["party"], ["art"])
    assert contains([], []) and not contains(["a"], [])


def test_an_answer_is_its_first_line() -> None:
    assert first_line("\n 308 points \nQuestion: and then?") == "308 points"


@pytest.mark.parametrize(
    ("greedy", "exact", "contained", "overlap"),
    [
        ("The 24 interceptions.", 1.0, 1.0, 1.0),
        ("24 Interceptions\nQuestion: more?", 1.0, 1.0, 1.0),
        ("They led with 24 interceptions", 0.0, 1.0, 4 / 7),  # 5 words, 2 right, 2 in common: 2 * 2 / 7
        ("interceptions: 24", 0.0, 1.0, 1.0),  # the words in another order, and the other accepted answer in them
        ("interceptions, 2 dozen", 0.0, 0.0, 0.4),  # 3 words, 2 right, 1 in common: 2 * 1 / 5
        ("24", 1.0, 1.0, 1.0),  # the other accepted answer
        ("118", 0.0, 0.0, 0.0),
        ("", 0.0, 0.0, 0.0),
    ],
)
def test_scores(greedy: str, exact: float, contained: float, overlap: float) -> None:
    row = ReadingRow("passage\n\nq?", "24 interceptions", language="en", accepted=("24 interceptions", "24"))
    outputs = SetOutputs("en", (RowOutputs(row, greedy=greedy),))
    found = [_metric(name).score(outputs).value for name in ("exact_span", "contained_span", "token_f1")]
    assert found == pytest.approx([exact, contained, overlap])


def test_other_rows_have_no_value_and_every_language_has_rules() -> None:
    plain = SetOutputs("en", (RowOutputs(Row("q", "a"), greedy="a"),))
    for name in ("exact_span", "contained_span", "token_f1"):
        with pytest.raises(ControlError, match="no row is a reading question"):
            _metric(name).score(plain)
    assert [words_of("x", language) for language in LANGUAGES] == [("x",)] * 7


def _metric(name: str) -> SetMetric:
    found = get_metric(name)
    assert isinstance(found, SetMetric)
    return found
