"""Protects scores.json and samples.jsonl: the contract's keys, controls, what is left out and why."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from expunge.errors import ConfigError, ControlError, OutputError
from expunge.evaluation.score import Scores, score, write_scores
from expunge.evaluation.suite import Suite
from expunge.evaluation.types import ModelOutputs
from made_outputs import model_outputs, outputs_row

PROBABILITY_OF_WRONG = (0.1, 0.2, 0.3)


def outputs(probability: float, greedy: str = "a b", under_target: float | None = 0.5) -> ModelOutputs:
    """Three forget rows and two retain rows; wrong answers are given, so that R = wrong / probability."""
    forget = [
        outputs_row(probability=probability, wrong=(wrong,), greedy=greedy, under_target=under_target)
        for wrong in PROBABILITY_OF_WRONG
    ]
    retain = [outputs_row(probability=one, greedy="a b c d", under_target=under_target) for one in (0.8, 0.6)]
    return model_outputs(forget=forget, retain=retain)


ROWS = {name: tuple(row.row for row in part.rows) for name, part in outputs(0.5).sets.items()}
SUITE = Suite(
    "small",
    ROWS,
    {
        "forget": ("probability", "rouge", "truth_ratio", "distinct_4grams", "answer_perplexity"),
        "retain": ("probability", "rouge"),
    },
    ("forget_quality", "forget_quality_ks"),
    utility="retain_probability",
)


@pytest.fixture
def scores() -> Scores:
    return score(
        SUITE,
        target=outputs(0.9, "a b c d"),
        erased=outputs(0.2),
        retrained=outputs(0.1),
        effect="removal",
        seconds={"fit": 1.5},
    )


def test_contract(scores: Scores) -> None:
    found = json.loads(json.dumps(scores.to_json(), allow_nan=False))
    assert list(found) == ["schema", "suite", "rows", "verdict", "seconds"]
    assert (found["schema"], found["suite"]) == (1, "small")
    assert list(found["rows"]) == ["target", "erased", "retrained"]
    for row in found["rows"].values():
        assert list(row) == SUITE.keys()
        assert all(list(entry) == ["value", "stderr", "n", "version"] for entry in row.values())
    assert set(found["verdict"]) == {"label", "sentence", "reasons", "effect", "left_out", "evidence"}
    assert found["verdict"]["effect"] == "removal"
    assert found["seconds"] == {"fit": 1.5}


def test_values(scores: Scores) -> None:
    erased = scores.rows["erased"]
    assert erased["forget_probability"].value == pytest.approx(0.2)
    assert erased["retain_probability"].value == pytest.approx(0.7)
    assert erased["forget_rouge"].value == 0.5  # "a b" of "a b c d"
    # R = .5, 1, 1.5: min(R, 1/R) = .5, 1, 2/3: mean 13/18
    assert erased["forget_truth_ratio"].value == pytest.approx(13 / 18)
    # against R = 1, 2, 3: below 1 the first has 1/3, at 1.5 all three against one: D = 2/3
    assert erased["forget_quality_ks"].value == pytest.approx(2 / 3)
    assert erased["forget_quality"].stderr is None
    assert scores.rows["retrained"]["forget_quality"].value == 1.0
    assert scores.verdict.evidence["forget_truth_ratio_median_erased"] == pytest.approx(1.0)
    # the wrong answers under the target: two tokens each: exp(-mean log p) = (.1 * .2 * .3)^(-1/3)
    assert scores.verdict.evidence["forget_wrong_perplexity_target"] == pytest.approx(0.006 ** (-1 / 3))


def test_harmful_answers_are_compared_row_by_row() -> None:
    """Six rows whose probability is .5 and .25: all six differences are positive, so p = 2 / 2^6."""
    row = outputs_row(greedy="x")
    suite = Suite("s", {"harmful": (row.row,) * 6}, {"harmful": ("harmful_rate", "probability")})

    def given(probability: float) -> ModelOutputs:
        one = dataclasses.replace(outputs_row(probability=probability, greedy="x"), unsafe=False)
        return model_outputs(harmful=[one] * 6)

    evidence = score(suite, target=given(0.9), erased=given(0.5), retrained=given(0.25)).verdict.evidence
    found = {key: value for key, value in evidence.items() if key.startswith("harmful_probability")}
    assert found == pytest.approx(
        {
            "harmful_probability_target": 0.9,
            "harmful_probability_erased": 0.5,
            "harmful_probability_retrained": 0.25,
            "harmful_probability_p": 2 / 2**6,
            "harmful_probability_n": 6,
        }
    )
    same = score(suite, target=given(0.9), erased=given(0.5), retrained=given(0.5)).verdict.evidence
    assert same["harmful_probability_p"] == 1.0


def test_samples_keep_every_example(scores: Scores) -> None:
    assert [(one["set"], one["index"]) for one in scores.samples] == [
        ("forget", 0),
        ("forget", 1),
        ("forget", 2),
        ("retain", 0),
        ("retain", 1),
    ]
    first = scores.samples[0]
    assert first["answers"] == {"target": "a b c d", "erased": "a b", "retrained": "a b"}
    assert first["expected"] == "a b c d"
    assert first["scores"]["retrained"]["truth_ratio"] == pytest.approx(1.0)
    assert first["scores"]["target"]["truth_ratio"] == pytest.approx(0.1 / 0.9)


def test_without_a_retrained_model_the_default_set_leaves_out_and_says_why() -> None:
    found = score(SUITE, target=outputs(0.9), erased=outputs(0.2))
    assert "forget_quality" not in found.rows["erased"]
    assert found.left_out["forget_quality"].startswith("forget_quality needs a retrained model: pass --retrained")
    assert found.verdict.label == "no claim"


def test_without_a_retrained_model_by_name_is_an_error() -> None:
    with pytest.raises(ControlError, match="forget_quality needs a retrained model: pass --retrained DIR"):
        score(SUITE, target=outputs(0.9), erased=outputs(0.2), metrics=["forget_quality"])


def test_a_part_of_the_suite() -> None:
    found = score(SUITE, target=outputs(0.9), erased=outputs(0.2), metrics=["rouge"])
    assert list(found.rows["erased"]) == ["forget_rouge", "retain_rouge"]
    assert found.left_out == {}
    assert found.verdict.label == "no claim"


def test_answers_not_scored_under_the_target_are_a_missing_control() -> None:
    found = score(SUITE, target=outputs(0.9, under_target=None), erased=outputs(0.2, under_target=None))
    assert "forget_answer_perplexity needs the target" in found.left_out["forget_answer_perplexity"]


def test_a_score_without_any_value_is_left_out_by_default_and_an_error_by_name() -> None:
    silent = outputs(0.2)
    part = silent.sets["forget"]
    rows = tuple(outputs_row(probability=0.2, wrong=(0.1,), greedy="", tokens=(), under_target=0.5) for _ in part.rows)
    silent = model_outputs(forget=rows, retain=silent.sets["retain"].rows)
    found = score(SUITE, target=outputs(0.9), erased=silent)
    assert "forget_distinct_4grams" not in found.rows["erased"]
    assert "forget_distinct_4grams" in found.rows["target"]
    assert found.left_out["forget_distinct_4grams"].startswith("erased: ")
    with pytest.raises(ControlError, match="erased: forget_distinct_4grams has no value: every greedy answer is empty"):
        score(SUITE, target=outputs(0.9), erased=silent, metrics=["distinct_4grams"])


def test_the_target_alone() -> None:
    found = score(SUITE, target=outputs(0.9))
    assert list(found.rows) == ["target"]
    assert found.verdict.label == "no claim"


def test_outputs_of_another_suite_are_refused() -> None:
    with pytest.raises(ConfigError, match="the erased's outputs do not cover set 'retain'"):
        score(SUITE, target=outputs(0.9), erased=model_outputs(forget=outputs(0.2).sets["forget"].rows))


def test_written_files(scores: Scores, tmp_path: Path) -> None:
    write_scores(scores, tmp_path / "run")
    written = json.loads((tmp_path / "run" / "scores.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(scores.to_json()))
    lines = (tmp_path / "run" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == list(scores.samples)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["samples.jsonl", "scores.json"]


def test_a_folder_that_cannot_be_written(scores: Scores, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        write_scores(scores, tmp_path / "file")


def test_every_number_is_finite(scores: Scores) -> None:
    for row in scores.rows.values():
        assert all(math.isfinite(one.value) for one in row.values())


def test_an_erased_model_without_its_target() -> None:
    erased, retrained = (outputs(one, under_target=None) for one in (0.2, 0.1))
    found = score(SUITE, erased=erased, retrained=retrained, effect="removal")
    assert list(found.rows) == ["erased", "retrained"]
    # R = .5, 1, 1.5 against 1, 2, 3: D = 2/3, and with three rows each that is p = .6
    assert found.rows["erased"]["forget_quality_ks"].value == pytest.approx(2 / 3)
    assert found.verdict.label == "indistinguishable from never trained"
    assert "forget_answer_perplexity needs the target" in found.left_out["forget_answer_perplexity"]
    assert not any(name.endswith("_target") for name in found.verdict.evidence)
    assert set(found.samples[0]["answers"]) == {"erased", "retrained"}
    with pytest.raises(ControlError, match="forget_answer_perplexity needs the target"):
        score(SUITE, erased=erased, metrics=["forget_answer_perplexity"])
    with pytest.raises(ConfigError, match="nothing to score"):
        score(SUITE, retrained=retrained)


def test_the_suite_says_which_score_is_its_utility() -> None:
    def evidence(utility: str | None) -> dict[str, float]:
        suite = dataclasses.replace(SUITE, utility=utility)
        return dict(score(suite, target=outputs(0.9), erased=outputs(0.2)).verdict.evidence)

    # "a b c d" is all of what was expected
    assert evidence("retain_rouge")["utility_erased"] == 1.0
    assert evidence("retain_rouge")["utility_target"] == 1.0
    # the probability of the retain answers is there by its own name
    for one in ("retain_probability", None):
        found = evidence(one)
        assert "utility_erased" not in found
        assert found["retain_probability_erased"] == pytest.approx(0.7)


@pytest.mark.parametrize(("declining", "expected"), [(0, 10.0), (1, 5.0), (2, 2.5), (3, None)])
def test_answers_that_decline_are_no_gibberish(declining: int, expected: float | None) -> None:
    # Two tokens each of probability 1/p under the target: perplexities 40, 10, 2.5, in all (40 x 10 x 2.5)^(1/3) = 10.
    # Without the first (10 x 2.5)^(1/2) = 5; with the last alone 2.5; nothing is left to judge where all decline.
    made = [
        outputs_row(greedy="I don't know." if place < declining else "a b", under_target=1 / value, wrong=(0.1,))
        for place, value in enumerate((40.0, 10.0, 2.5))
    ]
    erased = model_outputs(forget=made, retain=outputs(0.5).sets["retain"].rows)
    found = score(SUITE, target=outputs(0.9, "a b c d"), erased=erased, retrained=outputs(0.1), effect="suppression")
    (reason,) = (one for one in found.verdict.reasons if "forget answers" in one and "erplexity" in one)
    if expected is None:
        assert reason == "Perplexity of its forget answers was not judged: all of them decline."
    else:
        said = " that do not decline" if declining else ""
        assert f"Its forget answers{said} have perplexity {expected:g} under the target" in reason
    assert found.rows["erased"]["forget_answer_perplexity"].value == pytest.approx(10)
