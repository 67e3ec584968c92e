"""Protects min-40%, its AUC and privacy leakage against the retrained model, by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from expunge.errors import ControlError
from expunge.evaluation.metric import UndefinedScoreError
from expunge.evaluation.metrics.min_k import METRIC as MIN_K
from expunge.evaluation.score import score
from expunge.evaluation.suite import Suite
from expunge.evaluation.types import ModelOutputs, RowOutputs
from expunge.requests.rows import Row
from made_outputs import answer, model_outputs, outputs_set

TEXTS = (Row("", "one two", kind="document"), Row("", "three four", kind="document"))
SUITE = Suite(
    "s",
    {"forget": TEXTS, "holdout": TEXTS},
    {"forget": ("min_k",), "holdout": ("min_k",)},
    ("membership_auc", "privleak"),
)


def outputs(forget: Sequence[float], holdout: Sequence[float]) -> ModelOutputs:
    """Each text is one token of this probability and an end token that is certain."""
    rows = {
        name: [RowOutputs(row, answer=answer(one, 1.0)) for row, one in zip(TEXTS, values, strict=True)]
        for name, values in (("forget", forget), ("holdout", holdout))
    }
    return model_outputs(**rows)


def test_the_least_likely_two_of_five_tokens() -> None:
    # 40% of 5 tokens are 2: log .1 and log .2; the end token, however unlikely, takes no part.
    row = RowOutputs(Row("", "text", kind="document"), answer=answer(0.9, 0.1, 0.5, 0.2, 0.8, 0.001))
    expected = (math.log(0.1) + math.log(0.2)) / 2
    assert MIN_K.score(outputs_set("forget", [row])).value == pytest.approx(expected, rel=1e-6)
    # cut off before its end: now the last of the six is a word like the others, and 40% of 6 are still 2
    cut = RowOutputs(row.row, answer=answer(0.9, 0.1, 0.5, 0.2, 0.8, 0.001, has_end=False))
    expected = (math.log(0.001) + math.log(0.1)) / 2
    assert MIN_K.score(outputs_set("forget", [cut])).value == pytest.approx(expected, rel=1e-6)
    with pytest.raises(UndefinedScoreError, match="more than its end token"):
        MIN_K.score(outputs_set("forget", [RowOutputs(row.row, answer=answer(0.5))]))


def test_auc_and_leakage_by_hand() -> None:
    # Target: both forget texts above both holdout ones, AUC 1. Erased: of the pairs (.6 .5) (.6 .7) (.4 .5) (.4 .7) one
    # is won, AUC 1/4. Retrained: (.5 .4) (.5 .6) (.3 .4) (.3 .6) likewise 1/4; a second one wins 2 of 4.
    target, erased = outputs((0.9, 0.8), (0.2, 0.3)), outputs((0.6, 0.4), (0.5, 0.7))
    alike, half = outputs((0.5, 0.3), (0.4, 0.6)), outputs((0.5, 0.45), (0.4, 0.6))
    found = score(SUITE, target=target, erased=erased, retrained=alike).rows
    assert {name: one["membership_auc"].value for name, one in found.items()} == {
        "target": 1.0, "erased": 0.25, "retrained": 0.25,
    }  # fmt: skip
    assert found["erased"]["membership_auc"].n == 4
    # 100 ((1 - a) - (1 - a_r)) / (1 - a_r): erased as retrained 0; target (0 - .75) / .75 = -100%
    assert found["erased"]["privleak"].value == 0
    assert found["target"]["privleak"].value == pytest.approx(-100)
    # against AUC 1/2: (.75 - .5) / .5 = +50%
    beyond = score(SUITE, target=target, erased=erased, retrained=half).rows["erased"]["privleak"]
    assert beyond.value == pytest.approx(50)
    assert beyond.stderr is not None


def test_without_what_it_takes() -> None:
    target = outputs((0.9, 0.8), (0.2, 0.3))
    found = score(SUITE, target=target)
    assert "pass --retrained DIR" in found.left_out["privleak"]
    with pytest.raises(ControlError, match="pass --retrained DIR"):
        score(SUITE, target=target, metrics=["privleak"])
    # a retrained model of AUC 1 says nothing by which to divide
    with pytest.raises(UndefinedScoreError, match="divides by 1 - AUC of the retrained model"):
        score(SUITE, target=target, retrained=target, metrics=["privleak"])
