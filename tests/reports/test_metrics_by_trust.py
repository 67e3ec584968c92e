"""Protects that reports put first what the committed pool of models found most faithful."""

from __future__ import annotations

import json
from pathlib import Path

from expunge.reports.names import BY_TRUST, HEADLINE, metric_order

META = Path(__file__).parents[2] / "benchmarks" / "results" / "meta_authors.json"


def test_metrics_of_the_forgotten_are_listed_by_the_measured_faithfulness() -> None:
    measured = {one["metric"]: one["faithfulness"]["value"] for one in json.loads(META.read_text())["metrics"]}
    means = {name: (measured[f"forget_{name}"] + measured[f"forget_paraphrased_{name}"]) / 2 for name in BY_TRUST}
    assert list(BY_TRUST) == sorted(BY_TRUST, key=lambda name: -means[name])
    shown = [name.removeprefix("forget_") for name in HEADLINE if name.removeprefix("forget_") in BY_TRUST]
    assert shown == [name for name in BY_TRUST if name in shown] and "truth_probability" in shown


def test_other_metrics_stay_set_by_set() -> None:
    keys = ["many_shot_rouge", "forget_rouge", "many_shot_truth_probability", "privleak", "many_shot_probability"]
    assert metric_order([*keys, "model_utility"]) == [
        "model_utility",
        "forget_rouge",
        "many_shot_truth_probability",
        "many_shot_probability",
        "many_shot_rouge",
        "privleak",
    ]
