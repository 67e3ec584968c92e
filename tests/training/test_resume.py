"""Protects resuming: a killed run goes on from its last whole checkpoint and ends bit for bit like one that ran."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from expunge.errors import TrainingError
from fitting import StoppedError, fit, same_tensors, stop_at
from history import read_history

EVERY: dict[str, Any] = {"checkpoint_every": 2, "score_every_steps": 3}


def steps_of(run: list[tuple[int, str]]) -> list[int]:
    return [done for done, what in run if what == "training"]


def fit_and_watch(folder: Path, **changed: Any) -> tuple[Any, list[int]]:
    seen: list[tuple[int, str]] = []
    erasure = fit("npo", folder=folder, progress=lambda done, _, what: seen.append((done, what)), **changed)
    return erasure, steps_of(seen)


@pytest.mark.parametrize(
    ("family", "dtype", "changed"),
    [
        ("llama", torch.float32, {}),
        ("llama", torch.bfloat16, {"layers": ("*.layers.1.*",)}),
        ("gpt2", torch.float32, {"accumulation": 2, "checkpoint_every": 1}),  # tied; has dropout
        ("mixtral", torch.float32, {}),  # experts that save_pretrained writes under other names
        ("llama", torch.float32, {"parameters": "lora", "lora_dropout": 0.2}),
        ("llama", torch.float32, {"dtype": "bfloat16"}),
    ],
    ids=["full", "narrow-layers", "tied-dropout", "experts", "lora-dropout", "autocast"],
)
def test_a_stopped_run_ends_like_an_uninterrupted_one(
    tmp_path: Path, family: str, dtype: torch.dtype, changed: dict[str, Any]
) -> None:
    def model() -> Any:
        return zoo.model(family).to(dtype)

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    changed = {**EVERY, "family": family, **changed}
    for folder in (whole, stopped):
        folder.mkdir()
    stop = 3 if changed.get("accumulation") != 2 else 2
    uninterrupted, steps = fit_and_watch(whole, model=model(), **changed)
    with pytest.raises(StoppedError):
        fit("npo", folder=stopped, model=model(), progress=stop_at(stop), **changed)
    resumed, resumed_steps = fit_and_watch(stopped, model=model(), **changed)
    assert resumed_steps == steps[stop - 1 :]  # the step after the last checkpoint, and on
    assert same_tensors(resumed, uninterrupted)
    assert read_history(stopped) == read_history(whole)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return fit("npo", folder=tmp_path_factory.mktemp("whole"), **EVERY)


def stopped_at(step: int, folder: Path, **changed: Any) -> Path:
    """The folder of checkpoints of a run that was stopped."""
    with pytest.raises(StoppedError):
        fit("npo", folder=folder, progress=stop_at(step), **{**EVERY, **changed})
    (checkpoints,) = (folder / "checkpoints").iterdir()
    return checkpoints


def test_a_half_written_checkpoint_is_passed_over(tmp_path: Path, uninterrupted: Any) -> None:
    checkpoints = stopped_at(5, tmp_path)
    (checkpoints / "checkpoint-4" / "complete").unlink()
    (checkpoints / "checkpoint-4" / "trained.safetensors").write_bytes(b"half")
    resumed, steps = fit_and_watch(tmp_path, **EVERY)
    assert steps == [3, 4, 5, 6]  # from checkpoint-2
    assert same_tensors(resumed, uninterrupted)


def test_a_run_killed_after_its_last_checkpoint_trains_no_more(tmp_path: Path, uninterrupted: Any) -> None:
    fit("npo", folder=tmp_path, **EVERY)
    resumed, steps = fit_and_watch(tmp_path, **EVERY)
    assert steps == []
    assert same_tensors(resumed, uninterrupted)


def test_a_half_written_log_line_is_dropped(tmp_path: Path) -> None:
    stopped_at(5, tmp_path)
    with (tmp_path / "training.jsonl").open("a", encoding="utf-8") as log:
        log.write('{"step": 5, "epo')
    fit("npo", folder=tmp_path, **EVERY)
    assert [line["step"] for line in read_history(tmp_path) if "loss" in line] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("changed", "values"),
    [({}, {"beta": 0.2}), ({"learning_rate": 2e-3}, {}), ({"seed": 1}, {}), ({"layers": ("*.mlp.*",)}, {})],
)
def test_no_run_resumes_from_anothers_checkpoint(
    tmp_path: Path, changed: dict[str, Any], values: dict[str, Any]
) -> None:
    stopped_at(5, tmp_path)
    seen: list[tuple[int, str]] = []
    other = {**EVERY, **changed}
    erasure = fit("npo", values, folder=tmp_path, progress=lambda done, _, what: seen.append((done, what)), **other)
    assert steps_of(seen) == [1, 2, 3, 4, 5, 6]
    assert same_tensors(erasure, fit("npo", values, **other))


def test_neither_does_a_run_on_other_rows_or_another_target(tmp_path: Path) -> None:
    from expunge.requests import Request
    from fitting import rows

    stopped_at(5, tmp_path)
    other = Request(forget=rows(6, "others"), retain=rows(9, "retain"))
    assert fit_and_watch(tmp_path, request=other, **EVERY)[1] == [1, 2, 3, 4, 5, 6]
    assert fit_and_watch(tmp_path, model=zoo.model("llama", seed=1), **EVERY)[1] == [1, 2, 3, 4, 5, 6]


def test_a_checkpoint_of_other_parameters_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    checkpoints = stopped_at(5, tmp_path)
    save_file({"other": torch.zeros(1)}, checkpoints / "checkpoint-4" / "trained.safetensors")
    with pytest.raises(TrainingError, match=r"checkpoint-4 holds other parameters than this run trains. Delete it"):
        fit("npo", folder=tmp_path, **EVERY)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from fitting import fit

def progress(done, total, what):
    if what == "training" and done == 5:
        os.kill(os.getpid(), signal.SIGKILL)

fit("npo", folder=Path(sys.argv[1]), progress=progress, checkpoint_every=2, score_every_steps=3)
"""


@pytest.mark.slow
def test_kill_9_and_run_again(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("whole", "killed")]
    for folder in folders:
        folder.mkdir()
    tests = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", KILLED, str(folders[1])], cwd=tests, check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    whole, _ = fit_and_watch(folders[0], **EVERY)
    resumed, steps = fit_and_watch(folders[1], **EVERY)
    assert steps == [5, 6]
    assert same_tensors(resumed, whole)
    assert read_history(folders[1]) == read_history(folders[0])
