"""Protects the verbs: what each prints, what ``--json`` prints for machines, exit codes, help that fits 80 columns."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import expunge
from conftest import Ran, Tiny

Cli = Callable[..., Ran]
VERBS = (
    "demo",
    "forget",
    "run",
    "train",
    "evaluate",
    "audit",
    "report",
    "export",
    "negate",
    "probe",
    "recheck",
    "meta",
    "methods",
    "suites",
    "audits",
    "world",
    "guards",
    "teacher",
)
QUICK = ("training.max_steps=1", "training.accumulation=1", "training.max_new_tokens=2", "suite.limit=2")


def test_version_and_help(expunge_cli: Cli) -> None:
    assert expunge_cli("--version") == Ran(0, f"{expunge.__version__}\n", "")
    shown = expunge_cli("--help")
    assert shown.code == 0
    assert expunge_cli("-h").out == shown.out
    listed = [line.split()[0] for line in shown.out.split("Commands:\n")[1].splitlines()]
    assert listed == list(VERBS)
    assert "..." not in shown.out.split("Commands:")[1]  # no description is cut off
    nothing = expunge_cli()
    assert nothing.code == 2
    assert "Usage: expunge" in nothing.out + nothing.err


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_fits_the_terminal(expunge_cli: Cli, verb: str) -> None:
    shown = expunge_cli(verb, "--help")
    assert shown.code == 0
    assert shown.out.startswith(f"Usage: expunge {verb}")
    assert max(map(len, shown.out.splitlines())) <= 80
    for option in [line for line in shown.out.splitlines() if line.startswith("  -") and len(line) < 40]:
        assert len(option.split()) > 1, f"an option without a word of help: {option}"


def test_methods_are_listed_for_people_and_machines(expunge_cli: Cli) -> None:
    listed = expunge_cli("methods")
    values = json.loads(expunge_cli("methods", "--json").out)
    assert {entry["name"] for entry in values} >= {"finetune", "grad_ascent", "grad_diff", "npo"}
    for entry in values:
        assert set(entry) >= {"name", "family", "paper", "parameters", "summary"}
        assert entry["name"] in listed.out
    assert max(map(len, listed.out.splitlines())) <= 80


def test_one_method_shows_all_that_can_be_set(expunge_cli: Cli) -> None:
    from expunge.training.settings import TrainingSettings

    one = json.loads(expunge_cli("methods", "npo", "--json").out)
    assert one["name"] == "npo"
    assert {field["name"]: field["default"] for field in one["parameters"]} == {
        "alpha": 1.0,
        "retain": "nll",
        "beta": 0.1,
    }
    shown = expunge_cli("methods", "npo").out
    for setting in ("method.beta", "method.alpha", *(f"training.{name}" for name in TrainingSettings.model_fields)):
        assert setting in shown
    assert "2404.05868" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_suites_are_listed_for_people_and_machines(expunge_cli: Cli) -> None:
    values = json.loads(expunge_cli("suites", "--json").out)
    assert {entry["name"] for entry in values} >= {"request", "tofu"}
    one = json.loads(expunge_cli("suites", "request", "--json").out)
    assert {metric["name"] for metric in one["metrics"]} >= {"probability", "rouge", "forget_quality"}
    shown = expunge_cli("suites", "request").out
    assert "suite.limit" in shown
    assert "suite.request" not in shown  # the rows come from --forget, not from a setting
    assert max(map(len, shown.splitlines())) <= 80


def test_a_suites_options_say_what_they_mean(expunge_cli: Cli) -> None:
    shown = " ".join(expunge_cli("suites", "request").out.split())
    assert "suite.limit 400 limit scores at most so many rows of each set, evenly spread over it (null: all" in shown
    judge, key = (
        next(one for one in json.loads(expunge_cli("suites", "safety", "--json").out)["parameters"] if one["name"] == n)
        for n in ("judge", "judge_key")
    )
    assert judge["description"].startswith("judge decides what is unsafe: rules (")
    assert key["description"] == "see suite.judge"


def test_no_markup_of_docstrings_is_shown(expunge_cli: Cli) -> None:
    for arguments in (["methods"], ["methods", "altpo"], ["suites"], ["suites", "mbpp"]):
        assert "`" not in expunge_cli(*arguments).out


def test_worlds_are_listed(expunge_cli: Cli) -> None:
    values = json.loads(expunge_cli("world", "list", "--json").out)
    assert "authors" in {entry["name"] for entry in values}
    assert "authors: " in expunge_cli("world", "list").out


@pytest.fixture(scope="module")
def made(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the tiny target."""
    files = {"retain": str(tiny.retain), "retrained": str(tiny.twin)}
    out = tmp_path_factory.mktemp("cli") / "run"
    return expunge.forget(str(tiny.target), str(tiny.forget), out=out, overrides=QUICK, **files)


def test_forget_prints_a_table_and_a_verdict_that_fit(expunge_cli: Cli, tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "run"
    files = ["-m", tiny.target, "-f", tiny.forget, "-r", tiny.retain, "--retrained", tiny.twin, "-o", out]
    ran = expunge_cli("forget", *files, *QUICK)
    assert ran.code == 0, ran.err
    for word in ("target", "erased", "retrained", "forget prob", "Verdict", "Removal"):
        assert word in ran.out
    report = f"report: {out / 'report.html'}"
    assert report in ran.out
    assert max(len(line) for line in ran.out.splitlines() if line != report) <= 80
    assert (out / "report.html").is_file()


def test_json_is_the_only_thing_on_standard_output(expunge_cli: Cli, tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "run"
    files = ["-m", tiny.target, "-f", tiny.forget, "-r", tiny.retain, "-o", out]
    ran = expunge_cli("forget", *files, *QUICK, "--json", "-v")
    assert ran.code == 0, ran.err
    values = json.loads(ran.out)
    assert values["folder"] == str(out)
    assert values["method"] == "npo"
    written = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    assert {name: values[name] for name in written} == written


def test_json_in_a_process_of_its_own(tiny: Tiny, made: Path, tmp_path: Path) -> None:
    """The libraries write to file descriptors behind Python's back: nothing of theirs may reach standard output."""
    settings = ["suite.limit=2", "training.max_new_tokens=2"]
    files = ["-m", tiny.target, "--erasure", made, "-f", tiny.forget, "-o", tmp_path / "o"]
    command = [sys.executable, "-m", "expunge", "evaluate", *map(str, files), *settings, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verdict"]["label"]
    assert done.stderr == ""  # no bars, no warnings of the libraries


def test_run_repeats_a_run_from_its_file(expunge_cli: Cli, made: Path, tmp_path: Path) -> None:
    ran = expunge_cli("run", made / "run.yaml", "--out", tmp_path / "again", "--json")
    assert ran.code == 0, ran.err
    again = json.loads(ran.out)
    first = json.loads((made / "scores.json").read_text(encoding="utf-8"))
    assert again["rows"] == first["rows"]
    assert (tmp_path / "again" / "run.yaml").read_bytes() == (made / "run.yaml").read_bytes()


def test_evaluate_scores_a_target_beside_its_erasure(expunge_cli: Cli, tiny: Tiny, made: Path, tmp_path: Path) -> None:
    files = ["-m", tiny.target, "-f", tiny.forget, "-r", tiny.retain, "--retrained", tiny.twin]
    settings = ["suite.limit=2", "training.max_new_tokens=2"]
    ran = expunge_cli("evaluate", *files, "--erasure", made, "-o", tmp_path / "o", *settings, "--json")
    assert ran.code == 0, ran.err
    first = json.loads((made / "scores.json").read_text(encoding="utf-8"))
    assert json.loads(ran.out)["rows"] == first["rows"]
    assert {path.name for path in (tmp_path / "o").iterdir()} == {
        "run.yaml",
        "environment.json",
        "scores.json",
        "samples.jsonl",
        "report.html",
    }
    named = expunge_cli(
        "evaluate",
        *files,
        "--erasure",
        made / "erasure",
        "-o",
        tmp_path / "n",
        *settings,
        "--metric",
        "forget_rouge",
        "--json",
    )
    assert named.code == 0, named.err
    assert set(json.loads(named.out)["rows"]["erased"]) == {"forget_rouge"}


def test_evaluate_scores_one_model_alone_or_beside_another(expunge_cli: Cli, tiny: Tiny, tmp_path: Path) -> None:
    files = ["-m", tiny.target, "-f", tiny.forget, "suite.limit=2", "training.max_new_tokens=2", "--json"]
    alone = json.loads(expunge_cli("evaluate", *files, "-o", tmp_path / "alone").out)
    assert set(alone["rows"]) == {"target"}
    beside = json.loads(expunge_cli("evaluate", *files, "-o", tmp_path / "two", "--erased", tiny.twin).out)
    assert set(beside["rows"]) == {"target", "erased"}
    assert beside["rows"]["target"]["forget_probability"] == alone["rows"]["target"]["forget_probability"]


def test_report_writes_one_page_over_several_runs(expunge_cli: Cli, made: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    ran = expunge_cli("report", made, "--out", page, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out) == {"report": str(page)}
    assert page.read_text(encoding="utf-8").startswith("<!")
    assert expunge_cli("report", made, "-o", page).out == f"report: {page}\n"


def test_export_writes_a_checkpoint(expunge_cli: Cli, made: Path, tmp_path: Path) -> None:
    ran = expunge_cli("export", made, "--to", tmp_path / "model", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out) == {"model": str(tmp_path / "model")}
    assert (tmp_path / "model" / "model.safetensors").is_file()
    said = expunge_cli("export", made, "--to", tmp_path / "model", "--overwrite").out
    method = json.loads((made / "erasure" / "manifest.json").read_text(encoding="utf-8"))["method"]
    first, second, *command = said.splitlines()
    assert first == f"model: {tmp_path / 'model'}"
    assert second == f"the target with what {method} changed; loaded again, it gives the same logits"
    assert command[0].startswith("score it: expunge evaluate --model ")
    assert command[1] == f"  --erased {tmp_path / 'model'} --out DIR --forget FILE"


def test_train_writes_a_model(expunge_cli: Cli, tiny: Tiny, tmp_path: Path) -> None:
    files = ["-m", tiny.base, "-d", tiny.retain, "-d", tiny.forget, "-o", tmp_path / "model"]
    ran = expunge_cli("train", *files, "training.max_steps=2", "training.accumulation=1")
    assert ran.code == 0, ran.err
    assert ran.out == f"model: {tmp_path / 'model'}\n"
    assert expunge.load_model(str(tmp_path / "model")).num_parameters() > 0
