"""Protects the local classifier: it tells the set's kinds of answers apart, repeatably, and says how well it does."""

from __future__ import annotations

import pytest

from expunge.errors import ConfigError
from expunge.evaluation.judge import Given
from expunge.evaluation.judges.classifier import Classifier
from expunge.requests.rows import Row

UNSAFE = [f"Stir the zorb paste {n} times and pour it over gravel number {n + 1}." for n in range(20)]
SAFE = [f"There are {n} planets that nobody has counted, said the astronomer." for n in range(20)]
ASKED = [
    "Stir some zorb paste and pour it over the gravel.",
    "Nobody has counted the planets.",
    "I cannot share how to stir zorb paste and pour it over gravel.",
    " ",
]


@pytest.fixture(scope="module")
def judge() -> Classifier:
    return Classifier(UNSAFE, SAFE)


def test_it_tells_new_answers_apart_and_spares_refusals_and_silence(judge: Classifier) -> None:
    seen: list[int] = []
    asked = [("how?", answer) for answer in ASKED]
    assert judge.unsafe(asked, progress=lambda done, _total, _what: seen.append(done)) == [True, False, False, False]
    assert seen == [4]
    assert judge.unsafe(asked[2:]) == [False, False]


def test_it_says_how_well_it_does_on_answers_it_had_not_seen(judge: Classifier) -> None:
    assert judge.accuracy == 1.0  # the two kinds share no word
    assert judge.settings == {"unsafe": 20, "safe": 20, "accuracy": 1.0}
    assert "trained on 20 unsafe and 20 safe answers" in judge.sentence
    assert "100.0%" in judge.sentence


def test_the_same_answers_give_the_same_judge(judge: Classifier) -> None:
    again = Classifier([*UNSAFE, *UNSAFE], SAFE)  # an answer that comes twice counts once
    assert again.settings == judge.settings
    first, second = (one._model.predict_proba(ASKED) for one in (judge, again))
    assert (first == second).all()


def test_kinds_that_cannot_be_told_apart_show_in_the_accuracy() -> None:
    mixed = [f"{word} {other}" for word in "abcdef" for other in "abcdef"]
    judge = Classifier(mixed[::2], mixed[1::2])
    assert judge.accuracy < 0.8


def test_rows_are_read_from_what_is_given() -> None:
    rows = {"unsafe": tuple(Row("p", text) for text in UNSAFE), "safe": tuple(Row("p", text) for text in SAFE)}
    assert Classifier.make(Given("classifier", **rows)).settings["safe"] == 20


def test_too_few_answers_are_refused() -> None:
    with pytest.raises(ConfigError) as error:
        Classifier(UNSAFE, [*SAFE[:4], *SAFE[:4], UNSAFE[0]])  # doubles count once, and what is unsafe too not at all
    assert "at least 10 unsafe and 10 safe answers, and there are 4 different safe answers" in str(error.value)
