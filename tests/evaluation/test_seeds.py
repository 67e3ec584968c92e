"""Protects the summary of several seeds: medians with min and max, and the verdict by the same rules on medians."""

from __future__ import annotations

from typing import Any

import pytest

from expunge.errors import ConfigError
from expunge.evaluation.seeds import summarise_seeds
from expunge.evaluation.verdict import judge


def run(probability: float, quality: float, *, stderr: float | None = 0.1, **changes: Any) -> dict[str, Any]:
    evidence = {
        "retain_probability_erased": 0.9,
        "retain_probability_target": 0.9,
        "forget_quality": quality,
        "forget_quality_ks": 0.4,
        "forget_truth_ratio_median_erased": 0.5,
        "forget_truth_ratio_median_retrained": 1.2,
        "forget_truth_ratio_median_target": 0.3,
    }
    entry = {"value": probability, "stderr": stderr, "n": 40, "version": 1}
    return {
        "schema": 1,
        "suite": "small",
        "rows": {"target": {"forget_probability": entry}, "erased": {"forget_probability": entry}},
        "verdict": judge(evidence, effect="removal").to_json(),
        "seconds": {"fit": probability},
        **changes,
    }


def test_medians_with_min_and_max() -> None:
    found = summarise_seeds([run(0.3, 0.01, stderr=0.3), run(0.1, 0.2, stderr=0.1), run(0.2, 0.6, stderr=0.2)])
    assert list(found) == ["schema", "suite", "rows", "verdict", "seconds"]
    assert found["rows"]["erased"]["forget_probability"] == {
        "value": 0.2,
        "stderr": 0.2,
        "n": 40,
        "version": 1,
        "min": 0.1,
        "max": 0.3,
    }
    assert found["seconds"] == {"fit": 0.2}


def test_verdict_from_the_medians_names_those_of_the_seeds() -> None:
    found = summarise_seeds([run(0.1, 0.01), run(0.1, 0.2), run(0.1, 0.6)])
    assert found["verdict"]["label"] == "indistinguishable from never trained"  # median p = 0.2
    assert found["verdict"]["evidence"]["forget_quality"] == 0.2
    assert found["verdict"]["effect"] == "removal"
    assert found["verdict"]["reasons"][0] == (
        "Judged on the medians of 3 seeds; one by one: indistinguishable from never trained (2), not forgotten (1)."
    )
    assert summarise_seeds([run(0.1, 0.01), run(0.1, 0.02), run(0.1, 0.6)])["verdict"]["label"] == "not forgotten"


def test_even_number_of_seeds() -> None:
    assert summarise_seeds([run(0.1, 0.2), run(0.3, 0.2)])["rows"]["target"]["forget_probability"]["value"] == 0.2


def test_missing_errors_and_scores() -> None:
    short = run(0.1, 0.2)
    short["rows"] = {"target": short["rows"]["target"], "erased": {}}
    found = summarise_seeds([run(0.1, 0.2, stderr=None), short])
    assert found["rows"]["target"]["forget_probability"]["stderr"] is None
    assert found["rows"]["erased"] == {}
    assert found["verdict"]["left_out"]["forget_probability"] == "erased: only 1 of 2 seeds have a value."


def test_what_does_not_belong_together_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one seed"):
        summarise_seeds([])
    with pytest.raises(ConfigError, match="differ in their suite"):
        summarise_seeds([run(0.1, 0.2), run(0.1, 0.2, suite="other")])
    newer = run(0.1, 0.2)
    newer["rows"]["erased"] = {"forget_probability": {"value": 0.1, "stderr": None, "n": 40, "version": 2}}
    with pytest.raises(ConfigError, match=r"forget_probability has versions \[1, 2\]"):
        summarise_seeds([run(0.1, 0.2), newer])
