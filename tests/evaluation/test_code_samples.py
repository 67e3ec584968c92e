"""Protects what is told of code answers: how each ended, in samples and page, and the files that evalplus reads."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Ran, Tiny
from expunge.benchmarks import gsm8k, mbpp
from expunge.errors import ConfigError, OutputError
from expunge.evaluation.code_answers import CodeRow, check_evalplus, write_evalplus_folder
from expunge.evaluation.score import score, write_scores
from expunge.evaluation.types import ModelOutputs, RowOutputs, SetOutputs
from expunge.reports.load import load_runs
from expunge.reports.names import metric_name
from expunge.reports.payload import examples

DATA = Path(__file__).parent.parent / "benchmarks" / "public"
TASKS = (
    CodeRow("Double it.", "def f(x): return 2 * x", tests=("assert f(2) == 4",), task=11),
    CodeRow("Halve it.", "def g(x): return x / 2", tests=("assert g(2) == 1",), task=12),
)
on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="code is run on Linux alone")


def outputs(*answers: str) -> ModelOutputs:
    rows = tuple(RowOutputs(row, greedy=answer) for row, answer in zip(TASKS, answers, strict=True))
    return ModelOutputs({"tasks": SetOutputs("tasks", rows)})


@on_linux
def test_samples_say_how_each_program_ended(tmp_path: Path) -> None:
    suite = mbpp.of_rows(TASKS)
    target = outputs(*(row.answer for row in TASKS))
    erased = outputs("def f(x): return 3 * x", "def g(x): return nothing")
    found = score(suite, target=target, erased=erased, metrics=["pass_at_1"])
    first, second = found.samples
    assert first["outcomes"]["target"] == {"pass_at_1": {"verdict": "passed"}}
    assert first["scores"] == {"target": {"pass_at_1": 1.0}, "erased": {"pass_at_1": 0.0}}
    assert first["outcomes"]["erased"]["pass_at_1"]["verdict"] == "failed"
    broken = second["outcomes"]["erased"]["pass_at_1"]
    assert broken["verdict"] == "error" and "NameError" in broken["detail"]
    assert found.rows["erased"]["tasks_pass_at_1"].value == 0.0
    write_scores(found, tmp_path)
    (run,) = load_runs([tmp_path])
    (shown, _) = examples([run], {0: 0})
    assert shown["controls"]["target"]["ended"] == "passed"
    assert shown["erased"]["0"]["ended"].startswith("failed")


def test_samples_of_other_metrics_have_no_such_key() -> None:
    suite = gsm8k.build(DATA / "gsm8k", shots=0, limit=1)
    rows = (RowOutputs(suite.sets["problems"][0], greedy="It is 0.5."),)
    answers = ModelOutputs({"problems": SetOutputs("problems", rows)})
    (sample,) = score(suite, target=answers, metrics=["exact_number"]).samples
    assert sample["scores"] == {"target": {"exact_number": 0.0}}
    assert "outcomes" not in sample


def test_one_file_a_model_for_evalplus(tmp_path: Path) -> None:
    folder = tmp_path / "plus"
    suite = mbpp.of_rows(TASKS)
    check_evalplus(suite, None, folder, overwrite=False)
    write_evalplus_folder({"target": outputs("a = 1", "b = 2"), "erased": None, "retrained": outputs("c", "d")}, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["retrained.jsonl", "target.jsonl"]
    lines = [json.loads(line) for line in (folder / "target.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines == [{"task_id": "Mbpp/11", "solution": "a = 1\n"}, {"task_id": "Mbpp/12", "solution": "b = 2\n"}]
    with pytest.raises(OutputError, match=r"has target\.jsonl, retrained\.jsonl already"):
        check_evalplus(suite, None, folder, overwrite=False)
    check_evalplus(suite, None, folder, overwrite=True)


def test_suites_and_metrics_without_code_answers_are_refused(tmp_path: Path) -> None:
    problems = gsm8k.build(DATA / "gsm8k", shots=0)
    with pytest.raises(ConfigError, match=r"suite 'gsm8k' asks none\. Use suite mbpp"):
        check_evalplus(problems, None, tmp_path / "plus", overwrite=False)
    unnumbered = mbpp.of_rows([CodeRow("Double it.", "pass", tests=("assert True",))])
    with pytest.raises(ConfigError, match="asks none"):
        check_evalplus(unnumbered, None, tmp_path / "plus", overwrite=False)
    with pytest.raises(ConfigError, match=r"none are given for probability\. Add pass_at_1"):
        check_evalplus(mbpp.of_rows(TASKS), ["probability"], tmp_path / "plus", overwrite=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        check_evalplus(mbpp.of_rows(TASKS), None, tmp_path / "file", overwrite=False)


@on_linux
def test_the_command_writes_them(expunge_cli: Callable[..., Ran], tiny: Tiny, tmp_path: Path) -> None:
    options = [
        f"suite.data={DATA / 'mbpp' / 'mbpp.jsonl'}",
        "suite.shots=0",
        "suite.limit=2",
        "training.max_new_tokens=4",
    ]
    folders = ["--out", tmp_path / "out", "--evalplus", tmp_path / "plus"]
    ran = expunge_cli(
        "evaluate", "--model", tiny.target, "--suite", "mbpp", "--metric", "pass_at_1", *folders, *options
    )
    assert ran.code == 0, ran.err
    assert "tasks pass@1" in ran.out
    lines = [json.loads(line) for line in (tmp_path / "plus" / "target.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["task_id"] for line in lines] == ["Mbpp/11", "Mbpp/14"]
    samples = [
        json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert all(sample["outcomes"]["target"]["pass_at_1"]["verdict"] for sample in samples)


@pytest.mark.parametrize(
    ("key", "label", "short"),
    [
        ("problems_exact_number", "Problems right numbers", "problems number"),
        ("tasks_pass_at_1", "Tasks code that passes (pass@1)", "tasks pass@1"),
        ("de_exact_span", "German exact spans", "de exact span"),
        ("vi_contained_span", "Vietnamese contained spans", "vi contained"),
        ("en_token_f1", "English shared words (F1)", "en F1"),
        ("letter_top_option", "Options by letter right options first", "letter top option"),
        ("mmlu_acc", "MMLU accuracy", "mmlu accuracy"),
        ("arc_acc_norm", "Arc accuracy, normalised by length", "arc acc norm"),
    ],
)
def test_metrics_of_public_suites_have_names(key: str, label: str, short: str) -> None:
    name = metric_name(key)
    assert (name.label, name.short) == (label, short)
    assert name.meaning and len(name.short) <= 18
