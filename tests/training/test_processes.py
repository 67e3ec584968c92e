"""Protects training in several processes: the same losses, weights and scores as in one, sharded or not, and going on
from another number of processes' checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest

import process_cases
from expunge.errors import ConfigError
from fitting import fit
from launching import TESTS, launch

FAST = (
    "fewer_rows",
    "accumulated",
    "reference_states",
    "epochs",
    "state",
    "alternatives",
    "lora",
    "sharded_tied",
    "sharded_lora",
    "sharded_layer",
)
RESUMED = ("resumed", "sharded_resumed")


def compare(folder: Path, cases: tuple[str, ...], resumed: tuple[str, ...] = (), *, processes: int = 2) -> list[str]:
    """Fit in this process and in several; each of ``resumed`` also half here and half there, both ways round."""
    alone, together, begun_here, begun_there = (folder / name for name in ("alone", "together", "here", "there"))
    for case in (*cases, *resumed):
        process_cases.run(case, alone)
    for case in resumed:
        process_cases.run(f"{case}@5", begun_here)
    there = [f"{together}={case}" for case in (*cases, *resumed)]
    there += [f"{begun_here}={case}" for case in resumed] + [f"{begun_there}={case}@5" for case in resumed]
    launch(TESTS / "process_cases.py", *there, processes=processes)
    found = [line for case in (*cases, *resumed) for line in process_cases.differences(case, alone, together)]
    for case in resumed:
        process_cases.run(case, begun_there)
        for place in (begun_here, begun_there):
            found += [f"{place.name} {line}" for line in process_cases.differences(case, alone, place)]
    return found


@pytest.mark.slow  # tests/test_pipeline_processes.py runs in two processes by default
def test_two_processes_end_where_one_does(tmp_path: Path) -> None:
    assert not compare(tmp_path, FAST, RESUMED)
    # every process has written its own part, and nothing that is unpickled
    (checkpoints,) = (tmp_path / "together" / "sharded_resumed" / "checkpoints").iterdir()
    sizes = {path.name: path.stat().st_size for path in (checkpoints / "checkpoint-4").iterdir()}
    shards = [sizes[f"shard-0000{number}-of-00002.safetensors"] for number in (0, 1)]
    assert shards[0] == pytest.approx(shards[1], rel=0.01)
    assert not {"trained.safetensors", "optimizer.pt", "scheduler.pt"} & set(sizes)


@pytest.mark.slow
def test_so_do_three_processes(tmp_path: Path) -> None:
    assert not compare(tmp_path, FAST, RESUMED, processes=3)


@pytest.mark.slow
def test_other_settings_families_and_optimizers(tmp_path: Path) -> None:
    resumed = tuple(name for name, (_, _, given) in process_cases.CASES.items() if "checkpoint_every" in given)
    rest = tuple(name for name in process_cases.CASES if name not in (*FAST, *resumed) and "method_" not in name)
    assert not compare(tmp_path, rest, tuple(name for name in resumed if name not in RESUMED))


@pytest.mark.slow
def test_every_method(tmp_path: Path) -> None:
    assert not compare(tmp_path, tuple(name for name in process_cases.CASES if "method_" in name))


def test_what_cannot_be_sharded_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        fit("npo", sharding="full", optimizer="adafactor", reference="resident")
    assert str(caught.value) == (
        "training.sharding=full: training.optimizer=adafactor needs whole parameters. "
        "Use adamw_torch, adamw_torch_fused, sgd, adagrad, rmsprop.\n"
        "training.sharding=full: training.reference=resident needs a whole model. Use cached."
    )
