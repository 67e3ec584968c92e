"""Protects ``expunge recheck``: every request of a chain scored on the last model, and what counts as coming back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from conftest import Ran, Tiny
from expunge.commands.recheck import difference

Cli = Callable[..., Ran]
QUICK = ("training.accumulation=1", "training.learning_rate=0.02", "suite.limit=4", "suite.metrics=probability")


@pytest.mark.parametrize(
    ("after", "end", "gone", "expected"),
    [
        # the standard error of a difference is the root of the sum of squares: sqrt(.03^2 + .04^2) = .05, twice .10
        ((0.1, 0.03), (0.21, 0.04), True, "comes back"),
        ((0.1, 0.03), (0.19, 0.04), True, ""),
        ((0.9, 0.03), (0.79, 0.04), False, "lost"),
        ((0.9, 0.03), (0.81, 0.04), False, ""),
        ((0.9, 0.03), (0.2, 0.04), True, ""),  # forgotten even better
        ((0.2, 0.03), (0.9, 0.04), False, ""),
        ((0.0, 0.0), (0.01, None), True, "comes back"),  # without an error whatever differs counts
        ((0.0, 0.0), (0.0, 0.0), True, ""),
    ],
)
def test_a_difference_counts_beyond_two_standard_errors(
    after: tuple[float, float | None], end: tuple[float, float | None], gone: bool, expected: str
) -> None:
    assert difference(after, end, gone=gone) == expected


@pytest.fixture
def chained(expunge_cli: Cli, tiny: Tiny, tmp_path: Path) -> Path:
    """A run that unlearns four rows, and one after it that unlearns others and is fitted back on those four."""
    rows = tiny.forget.read_text("utf-8").splitlines(keepends=True)
    for name, part in (("one", rows[:4]), ("two", rows[4:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(part), "utf-8")
    first, second = tmp_path / "first", tmp_path / "second"
    common = ("--method", "grad_diff", *QUICK)
    one = ("--forget", tmp_path / "one.jsonl", "--retain", tiny.retain, "--subject", "First Author")
    ran = expunge_cli("forget", "--model", tiny.target, "--out", first, *one, *common, "training.epochs=5")
    assert ran.code == 0, ran.err
    two = ("--forget", tmp_path / "two.jsonl", "--retain", tmp_path / "one.jsonl")
    back = ("--method", "finetune", *QUICK, "training.epochs=15")
    ran = expunge_cli("forget", "--model", f"run:{first}", "--out", second, *two, *back)
    assert ran.code == 0, ran.err
    return second


def test_a_request_that_comes_back_is_named(expunge_cli: Cli, chained: Path, tmp_path: Path) -> None:
    recorded = yaml.safe_load((chained / "run.yaml").read_text("utf-8"))
    assert recorded["model"]["path"] == f"run:{tmp_path / 'first'}"
    ran = expunge_cli("recheck", chained, "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    keys = {name: [one["key"] for one in found if Path(one["run"]).name == name] for name in ("first", "second")}
    assert [keys["first"][0], keys["second"][0]] == ["forget_probability", "forget_probability"]
    assert "retain_probability" in keys["first"]
    # each set is compared by one score
    assert len(keys["first"]) == len(keys["second"]) == len({key.rpartition("_")[0] for key in keys["second"]})
    for one in found:
        scores = json.loads((Path(one["run"]) / "scores.json").read_text("utf-8"))["rows"]
        assert one["after"] == [scores["erased"][one["key"]][part] for part in ("value", "stderr")]
        assert one["before"][0] == scores["target"][one["key"]]["value"]
    # the last run's own scores are taken again on the same model
    assert all(one["end"] == one["after"] and one["changed"] == "" for one in found if Path(one["run"]) == chained)
    # the second run was fitted on what the first removed
    assert found[0]["about"] == "First Author"
    assert found[0]["changed"] == "comes back"
    assert found[0]["after"][0] < found[0]["end"][0]
    shown = expunge_cli("recheck", chained)
    assert "First Author" in shown.out
    assert f"2 removals, {len(found)} scores; comes back: " in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80
    # of the first run by itself nothing can have changed
    alone = json.loads(expunge_cli("recheck", tmp_path / "first", "--json").out)
    assert {one["changed"] for one in alone} == {""}
    (tmp_path / "first" / "scores.json").unlink()
    refused = expunge_cli("recheck", chained)
    assert refused.code == 2
    assert "that run did not finish" in " ".join(refused.err.split())
