"""Protects ``evaluate --tasks``: every model runs them, alone or beside a suite; folder, page and table say so."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import expunge
from conftest import Ran, Tiny
from expunge.errors import ConfigError
from expunge.evaluation.harness import Abilities, HarnessSettings
from expunge.evaluation.types import Score
from expunge.models.state import APPLIED, marked
from harness_tasks import write_tasks

Cli = Callable[..., Ran]
FAST = ("training.max_new_tokens=3", "suite.limit=2")


class StandIn:
    """In the harness's place: a model's score is its norms' weights, summed."""

    ran: list[tuple[str, ...]] = []  # noqa: RUF012 - one for all, which each test begins empty

    def __init__(self, settings: HarnessSettings) -> None:
        self.settings = settings

    def run(self, model: Any, tokenizer: Any, *, progress: Any) -> Abilities:
        progress(1, 1, f"{len(tokenizer)} tokens")
        self.ran.append(tuple(getattr(model, APPLIED, ())))
        return Abilities(
            {"some_task_acc": Score(mass(model), 0.25, 4, "1, lm-eval 9")}, ("some_task_acc",), version="9"
        )


def mass(model: Any) -> float:
    return sum(float(value.detach().sum()) for name, value in model.named_parameters() if "norm" in name)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    monkeypatch.setattr("expunge.evaluation.harness.Harness", StandIn)
    StandIn.ran.clear()
    return StandIn


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.usefixtures("stand_in")
def test_tasks_alone(expunge_cli: Cli, tiny: Tiny, tmp_path: Path) -> None:
    models = ["--model", tiny.target, "--erased", tiny.twin, "--retrained", tiny.twin]
    tasks = ["--tasks", "some_task,another", "--tasks-path", tmp_path, "harness.limit=4"]
    ran = expunge_cli("evaluate", *models, *tasks, "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    scores = read(tmp_path / "out")
    expected = {
        name: mass(expunge.load_model(folder)) for name, folder in (("target", tiny.target), ("erased", tiny.twin))
    }
    for model, value in expected.items():
        assert scores["rows"][model] == {
            "some_task_acc": {"value": pytest.approx(value), "stderr": 0.25, "n": 4, "version": "1, lm-eval 9"}
        }
    assert scores["rows"]["retrained"] == scores["rows"]["erased"] != scores["rows"]["target"]
    assert (scores["suite"], scores["verdict"]["label"], scores["verdict"]["effect"]) == (
        "lm-eval",
        "no claim",
        "removal",
    )
    assert scores["harness"]["tasks"] == ["some_task", "another"]
    run = yaml.safe_load((tmp_path / "out" / "run.yaml").read_text(encoding="utf-8"))
    assert (run["suite"], run["harness"]["limit"], run["harness"]["path"]) == ({"name": "lm-eval"}, 4, str(tmp_path))
    assert "some task accuracy" in ran.out and "Nothing is claimed about forgetting" in ran.out
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Some task accuracy" in page and "metric version 1, lm-eval 9" in page
    again = expunge_cli("evaluate", *models, *tasks[:-1], "harness.limit=5", "--out", tmp_path / "out")
    assert again.code == 2 and "harness.limit was 4, now 5" in again.err.replace("\n", " ")


def test_tasks_beside_a_suite(tiny: Tiny, stand_in: type[StandIn], tmp_path: Path) -> None:
    request = expunge.Request.load(tiny.forget, retain=tiny.retain)
    model, tokenizer = expunge.load_model(tiny.target), expunge.load_tokenizer(tiny.target)
    with marked(model, "weights"):
        found = expunge.evaluate(
            model,
            tokenizer,
            "request",
            target=expunge.load_model(tiny.target),
            retrained=str(tiny.twin),
            request=request,
            metrics=["probability"],
            tasks=["some_task"],
            overrides=FAST,
            out=tmp_path / "out",
        )
    assert stand_in.ran == [(), ("weights",), ()]  # target, erased, retrained
    assert set(found.rows["erased"]) > {"forget_probability", "retain_probability", "some_task_acc"}
    assert found.rows["retrained"]["some_task_acc"].value != found.rows["target"]["some_task_acc"].value
    plain = expunge.evaluate(
        str(tiny.target), request=request, metrics=["probability"], retrained=str(tiny.twin), overrides=FAST
    )
    for model_name in ("target", "retrained"):
        assert found.rows[model_name].items() >= plain.rows[model_name].items()
    assert any(reason.startswith("By lm-eval 9: some_task_acc") for reason in found.verdict.reasons)
    assert "Some task accuracy" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("stand_in")
def test_options_that_nothing_reads_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    path = str(tiny.target)
    files = {"forget": str(tiny.forget), "retain": None}
    with pytest.raises(ConfigError, match=r"request \(forget\), metrics, evalplus: only a suite reads that"):
        expunge.evaluate(path, tasks="t", request=files, metrics=["rouge"], evalplus=tmp_path)
    with pytest.raises(ConfigError, match="folder of tasks here was named and no task"):
        expunge.evaluate(path, tasks_path="here", request=files)
    with pytest.raises(ConfigError, match=r"harness: no tasks were named that it is about"):
        expunge.evaluate(path, request=files, overrides=["harness.limit=3"])
    with pytest.raises(ConfigError, match=r"suite: tasks were named and no suite"):
        expunge.evaluate(path, tasks="t", overrides=["suite.limit=3"])


def test_without_the_harness_the_command_names_the_extra(
    expunge_cli: Cli, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("expunge.extras.installed", lambda _: None)
    ran = expunge_cli("evaluate", "--model", tiny.target, "--tasks", "mmlu", "--out", tmp_path / "out")
    assert ran.code == 2
    assert "pip install 'expunge[eval]'" in ran.err and not (tmp_path / "out").exists()


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="the extra eval is not installed")
def test_the_harness_itself_from_the_command_line(expunge_cli: Cli, tiny: Tiny, tmp_path: Path) -> None:
    folder = write_tasks(tmp_path / "tasks")
    models = ["--model", tiny.target, "--erased", tiny.twin]
    ran = expunge_cli(
        "evaluate", *models, "--tasks", "local_choice", "--tasks-path", folder, "--json", "--out", tmp_path / "out"
    )
    assert ran.code == 0, ran.err
    rows = json.loads(ran.out)["rows"]
    assert {model: entry["local_choice_acc"]["n"] for model, entry in rows.items()} == {"target": 4, "erased": 4}
    assert "%|" not in ran.err and "fatal" not in ran.err  # neither bars nor complaints
