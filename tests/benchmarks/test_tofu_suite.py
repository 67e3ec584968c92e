"""Protects the TOFU suite: files of its schema become sets with the right scores; what is missing is named at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from expunge.benchmarks import tofu
from expunge.errors import ConfigError, RequestError, UnknownNameError


def record(name: str, i: int, *, paraphrased: bool) -> dict[str, object]:
    found: dict[str, object] = {
        "question": f"{name} question {i}?",
        "answer": f"{name} answer {i}.",
        "perturbed_answer": [f"{name} wrong {i} {j}." for j in range(3)],
    }
    if paraphrased:
        found |= {"paraphrased_question": f"{name} reworded {i}?", "paraphrased_answer": f"{name} said anew {i}."}
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, stem, suffix, count in (
        ("forget", "forget01_perturbed", ".jsonl", 3),
        ("retain", "retain_perturbed", ".jsonl", 4),
        ("author", "real_authors_perturbed", ".json", 2),
        ("fact", "world_facts_perturbed", ".jsonl", 2),
    ):
        rows = [record(name, i, paraphrased=name in ("forget", "retain")) for i in range(count)]
        lines = "\n".join(map(json.dumps, rows)) + "\n" if suffix == ".jsonl" else json.dumps(rows)
        (tmp_path / f"{stem}{suffix}").write_text(lines, encoding="utf-8")
    return tmp_path


def test_sets_and_keys(folder: Path) -> None:
    suite = tofu.build(folder, "forget01")
    assert {name: len(rows) for name, rows in suite.sets.items()} == {
        "forget": 3,
        "forget_paraphrased": 3,
        "retain": 4,
        "real_authors": 2,
        "world_facts": 2,
    }
    keys = suite.keys()
    assert {"forget_quality", "forget_quality_ks", "model_utility"} <= set(keys)
    for name in ("forget", "forget_paraphrased", "retain", "real_authors", "world_facts"):
        assert {f"{name}_probability", f"{name}_rouge", f"{name}_truth_ratio"} <= set(keys)
    for name in ("forget", "retain"):
        for label in ("extraction_strength", "exact_memorization", "answer_perplexity", "entropy", "repetition"):
            assert f"{name}_{label}" in keys


def test_each_set_is_scored_its_own_way(folder: Path) -> None:
    metrics = tofu.build(folder, "forget01").set_metrics()
    assert metrics["forget_truth_ratio"][1].name == "truth_ratio"
    assert metrics["retain_truth_ratio"][1].name == "kept_truth_ratio"
    assert metrics["retain_probability"][1].name == "probability"
    assert metrics["real_authors_probability"][1].name == "choice_probability"


def test_rows(folder: Path) -> None:
    sets = tofu.build(folder, "forget01").sets
    row = sets["forget"][1]
    assert (row.prompt, row.answer, row.paraphrased_answer) == (
        "forget question 1?",
        "forget answer 1.",
        "forget said anew 1.",
    )
    assert row.wrong_answers == ("forget wrong 1 0.", "forget wrong 1 1.", "forget wrong 1 2.")
    reworded = sets["forget_paraphrased"][1]
    assert (reworded.prompt, reworded.answer) == ("forget reworded 1?", "forget answer 1.")
    assert row.source == "forget01_perturbed.jsonl:2"


def test_unknown_split(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"tofu has no split 'forget1'\. Did you mean 'forget10' or 'forget01'"):
        tofu.build(folder, "forget1")


def test_all_missing_files_in_one_error(folder: Path) -> None:
    (folder / "retain_perturbed.jsonl").unlink()
    with pytest.raises(RequestError) as caught:
        tofu.build(folder, "forget05")
    assert "has no forget05_perturbed" in str(caught.value)
    assert "has no retain_perturbed" in str(caught.value)


def test_plain_splits_are_refused(folder: Path) -> None:
    plain = [{"question": "q?", "answer": "a"}]
    (folder / "forget01_perturbed.jsonl").write_text(json.dumps(plain[0]) + "\n", encoding="utf-8")
    with pytest.raises(RequestError) as caught:
        tofu.build(folder, "forget01")
    assert "tofu needs the perturbed splits" in str(caught.value)
    assert "forget: 1 of 1 rows have no wrong answers" in str(caught.value)
    assert "no paraphrased question and answer" in str(caught.value)


def test_a_path_that_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is no folder with TOFU's files and no dataset id"):
        tofu.build(tmp_path / "nowhere", "forget01")


def test_a_misspelt_score_of_the_suite(folder: Path) -> None:
    from expunge.evaluation.suite import select

    with pytest.raises(UnknownNameError, match="Did you mean 'model_utility'"):
        select(tofu.build(folder, "forget01"), ["model_utilty"])


def test_retain_rows_are_spread_over_the_file(folder: Path) -> None:
    whole = tofu.build(folder, "forget01").sets["retain"]
    # two of n rows: the first and the one in the middle
    assert tofu.build(folder, "forget01", retain_rows=2).sets["retain"] == (whole[0], whole[len(whole) // 2])
    assert tofu.build(folder, "forget01", retain_rows=10_000).sets["retain"] == whole
    with pytest.raises(ConfigError, match="retain_rows=0"):
        tofu.build(folder, "forget01", retain_rows=0)
