"""Protects the comparison of greedy answers with the target's own."""

from __future__ import annotations

from typing import Any

import pytest

from expunge.evaluation.metric import UndefinedScoreError
from expunge.evaluation.metrics import as_target_bleu, as_target_rouge
from expunge.evaluation.score import score
from expunge.evaluation.suite import Suite
from expunge.evaluation.types import ModelOutputs, RowOutputs
from expunge.requests.rows import Row
from made_outputs import model_outputs

ROWS = (Row("Who?", ""), Row("Where?", ""), Row("When?", ""))


def suite(*composites: Any) -> Suite:
    return Suite("s", {"asked": ROWS}, {"asked": ("answer_words",)}, composites)


def outputs(*answers: str) -> ModelOutputs:
    return model_outputs(asked=[RowOutputs(row, greedy=text) for row, text in zip(ROWS, answers, strict=True)])


def test_rouge_against_the_targets_answers() -> None:
    target = outputs("a b c", "x y", "!")
    erased = outputs("a c", "z", "other")
    found = score(suite(as_target_rouge.of("asked")), target=target, erased=erased)
    # row 1: 2 * 2 / (3 + 2) = 4/5; row 2: 0; row 3: the target said no word, nothing to compare with
    one = found.rows["erased"]["asked_as_target_rouge"]
    assert (one.value, one.n) == (pytest.approx(0.4), 2)
    # of 4/5 and 0 the deviation is .8 / sqrt 2, over sqrt 2 rows: .4
    assert one.stderr == pytest.approx(0.4)
    assert found.rows["target"]["asked_as_target_rouge"].value == 1
    # words: 2, 1, 1
    assert found.rows["erased"]["asked_answer_words"].value == pytest.approx(4 / 3)


def test_the_target_is_needed() -> None:
    found = score(suite(as_target_rouge.of("asked")), erased=outputs("a", "b", "c"))
    assert "the target was not scored" in found.left_out["asked_as_target_rouge"]
    with pytest.raises(UndefinedScoreError, match="no answer of the target has a word"):
        score(
            suite(as_target_rouge.of("asked")),
            target=outputs("!", "", "."),
            erased=outputs("a", "b", "c"),
            metrics=["asked_as_target_rouge"],
        )


def test_bleu_takes_the_targets_answer_as_the_expected_one(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def alike(expected: str, answer: str) -> float:
        seen.append((expected, answer))
        return 0.5

    monkeypatch.setattr(as_target_bleu, "bleu", alike)
    found = score(suite(as_target_bleu.of("asked")), target=outputs("a", "b", "c"), erased=outputs("d", "e", "f"))
    assert found.rows["erased"]["asked_as_target_bleu"].value == 0.5
    assert ("a", "d") in seen
