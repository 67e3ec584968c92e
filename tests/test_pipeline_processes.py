"""Protects a whole run in several processes: the run folder of one process, written once, whatever the launcher."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import expunge
from conftest import Tiny

SETTINGS = (
    "training.learning_rate=1e-3",
    "training.epochs=4",
    "training.accumulation=1",
    "training.score_every_steps=2",
    "training.max_new_tokens=4",
    "suite.limit=5",
    "training.max_length=140",  # one row has 141 tokens, which is warned of
)
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "expunge")
ACCELERATE = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1")
ACCELERATE = (*ACCELERATE, "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "expunge")


def start(launcher: tuple[str, ...], *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def launched(launcher: tuple[str, ...], *arguments: object, fails: bool = False) -> tuple[str, str]:
    """What the command wrote to standard output and standard error."""
    running = start(launcher, *arguments)
    out, err = running.communicate(timeout=300)
    assert bool(running.returncode) == fails, err
    return out, err


def command(tiny: Tiny, out: Path, *more: str) -> list[object]:
    files = ["--retain", tiny.retain, "--retrained", tiny.twin, "--out", out]
    return ["forget", "--model", tiny.target, "--forget", tiny.forget, *files, *SETTINGS, *more]


def forget(tiny: Tiny, out: Path, *overrides: str, **options: Any) -> Path:
    files = {"retain": str(tiny.retain), "retrained": str(tiny.twin), **options}
    return expunge.forget(str(tiny.target), str(tiny.forget), out=out, overrides=(*SETTINGS, *overrides), **files)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def assert_alike(one: Path, other: Path) -> None:
    """The same files, the same answers, and all scores and losses within 1e-4."""
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in other.iterdir())
    scores = [json.loads((folder / "scores.json").read_text(encoding="utf-8")) for folder in (one, other)]
    assert scores[0]["verdict"]["label"] == scores[1]["verdict"]["label"]
    for model, row in scores[0]["rows"].items():
        for name, entry in row.items():
            numbers = {part: value for part, value in entry.items() if value is not None}
            found = {part: scores[1]["rows"][model][name][part] for part in numbers}
            assert found == pytest.approx(numbers, rel=1e-4, abs=1e-4), (model, name)
    if (one / "samples.jsonl").is_file():
        samples = [lines(folder / "samples.jsonl") for folder in (one, other)]
        assert [sample["answers"] for sample in samples[0]] == [sample["answers"] for sample in samples[1]]
    if (one / "training.jsonl").is_file():
        logs = [lines(folder / "training.jsonl") for folder in (one, other)]
        assert len(logs[0]) == len(logs[1])
        for before, after in zip(*logs, strict=True):
            flat = [{**line.pop("scores", {}), **line} for line in (before, after)]
            assert flat[1] == pytest.approx(flat[0], rel=1e-4, abs=1e-7)  # a KL of equal models is rounding alone


def test_a_run_in_two_processes_is_the_run_in_one(tiny: Tiny, tmp_path: Path) -> None:
    out, err = launched(TORCHRUN, *command(tiny, tmp_path / "two"))
    assert_alike(forget(tiny, tmp_path / "one"), tmp_path / "two")
    hardware = json.loads((tmp_path / "two" / "environment.json").read_text(encoding="utf-8"))["hardware"]
    assert hardware["processes"] == 2
    assert out.count("report: ") == 1
    assert err.count("1 of 8 rows are longer than 140 tokens") == 1  # said by one process


@pytest.mark.slow
def test_seeds_sharded_and_gone_on_with_in_one_process(tiny: Tiny, tmp_path: Path) -> None:
    longer = ("training.epochs=40", "training.checkpoint_every=5", "training.sharding=full", "--seeds", "0,1")
    folder = tmp_path / "killed"
    running = start(TORCHRUN, *command(tiny, folder, *longer))
    end = time.monotonic() + 200
    while not any(folder.glob("seed-1/checkpoints/*/checkpoint-10/complete")):
        assert time.monotonic() < end
        assert running.poll() is None
        time.sleep(0.02)
    running.send_signal(signal.SIGTERM)  # torchrun ends its processes
    running.communicate(timeout=60)
    assert not (folder / "report.html").exists()
    settings = ("training.epochs=40", "training.checkpoint_every=5", "training.sharding=full")
    forget(tiny, folder, *settings, seeds=(0, 1))
    whole = forget(tiny, tmp_path / "whole", *settings, seeds=(0, 1))
    assert_alike(whole, folder)
    for seed in ("seed-0", "seed-1"):
        assert_alike(whole / seed, folder / seed)


@pytest.mark.slow
def test_accelerate_launches_it_too(tiny: Tiny, tmp_path: Path) -> None:
    launched(ACCELERATE, *command(tiny, tmp_path / "two", "--method", "kl_min"))
    assert_alike(forget(tiny, tmp_path / "one", method="kl_min"), tmp_path / "two")


@pytest.mark.slow
def test_evaluate_and_train(tiny: Tiny, tmp_path: Path) -> None:
    train = ["train", "--model", tiny.base, "--data", tiny.forget, "training.epochs=1", "training.learning_rate=1e-3"]
    out, _ = launched(TORCHRUN, *train, "--out", tmp_path / "two", "--json")
    assert json.loads(out) == {"model": str(tmp_path / "two")}
    rows = ["--forget", tiny.forget, "--retain", tiny.retain, *SETTINGS[-2:]]
    launched(TORCHRUN, "evaluate", "--model", tmp_path / "two", *rows, "--out", tmp_path / "scored")
    expunge.train(str(tiny.base), str(tiny.forget), out=tmp_path / "one", overrides=train[-2:])
    request = {"forget": str(tiny.forget), "retain": str(tiny.retain)}
    expunge.evaluate(str(tmp_path / "one"), request=request, out=tmp_path / "alone", overrides=SETTINGS[-2:])
    assert_alike(tmp_path / "alone", tmp_path / "scored")


@pytest.mark.slow
def test_what_is_wrong_is_said_once_and_ends_all(tiny: Tiny, tmp_path: Path) -> None:
    _, err = launched(TORCHRUN, *command(tiny, tmp_path / "run", "training.learning_rat=1"), fails=True)
    assert err.count("error: training.learning_rat: ") == 1
    assert "exitcode  : 2" in err
    settings = ("training.learning_rate=1e25", "training.max_grad_norm=0")
    _, err = launched(TORCHRUN, *command(tiny, tmp_path / "run", *settings), fails=True)
    assert err.count("error: npo: the gradient norm is nan at optimizer step") == 1
    assert "exitcode  : 3" in err
    _, err = launched(TORCHRUN, "export", tmp_path / "run", "--to", tmp_path / "model", fails=True)
    assert err.count("error: expunge export works in one process, and 2 were started.") == 1
