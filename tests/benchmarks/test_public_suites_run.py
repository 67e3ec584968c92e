"""Protects the public suites from end to end: a model's log-probabilities and answers become their scores."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import zoo
from expunge.benchmarks.registry import get_benchmark
from expunge.evaluation.outputs import run_model
from expunge.evaluation.score import score

DATA = Path(__file__).parent / "public"


@pytest.mark.parametrize(
    ("name", "data", "options", "keys"),
    [
        ("gsm8k", "gsm8k", {"shots": 0}, {"problems_exact_number", "problems_probability"}),
        ("mbpp", "mbpp/mbpp.jsonl", {"shots": 0, "limit": 2}, {"tasks_pass_at_1", "tasks_probability"}),
        ("mmlu", "mmlu", {"shots": 0}, {"letter_top_option", "option_top_option", "letter_probability"}),
        ("mlqa", "short", {}, {"en_exact_span", "de_contained_span", "es_token_f1", "de_probability"}),
    ],
)
def test_a_model_is_scored(name: str, data: str, options: dict[str, object], keys: set[str], tmp_path: Path) -> None:
    if name == "mbpp" and not sys.platform.startswith("linux"):
        pytest.skip("code is run on Linux alone")
    source = DATA / data
    if name == "mlqa":  # the tiny model has no room for a whole passage
        source = tmp_path
        for language in ("en", "de", "es"):
            (tmp_path / f"{language}.jsonl").write_text(
                '{"context": "A b.", "question": "b?", "answers": [{"text": "b"}]}\n' * 2
            )
    suite = get_benchmark(name).build(source, **options)
    outputs = run_model(zoo.model("llama"), zoo.tokenizer("llama"), suite, max_length=500, max_new_tokens=4,
                        metrics=sorted(keys))  # fmt: skip
    scores = score(suite, target=outputs, metrics=sorted(keys))
    assert set(scores.rows["target"]) == keys
    for key, one in scores.rows["target"].items():
        assert 0 <= one.value <= 1, key
        assert one.n == len(suite.sets[key.split("_")[0]])
