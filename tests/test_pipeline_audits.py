"""Protects audits as a part of a run: they are in its folder and its report, for each seed, and not run again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import expunge
import expunge.pipeline
from conftest import Tiny
from expunge.audits.many_shot import ManyShot
from fitting import StoppedError

SETTINGS = ("training.max_steps=2", "training.accumulation=1", "training.max_new_tokens=3", "suite.limit=2")


def values(tiny: Tiny, **changed: Any) -> dict[str, Any]:
    return {
        "model": str(tiny.target),
        "retrained": str(tiny.twin),
        "request": {"forget": str(tiny.forget), "retain": str(tiny.retain)},
        "method": "npo",
        "audits": {"paraphrase": {"limit": 2, "disguises": []}, "many_shot": {"limit": 2, "shots": 2}},
        **changed,
    }


def read(folder: Path) -> Any:
    return json.loads((folder / "audits.json").read_text(encoding="utf-8"))


def test_a_run_goes_on_with_the_audits_that_are_missing(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(ManyShot, "run", killed)
        with pytest.raises(KeyboardInterrupt):
            expunge.run(values(tiny), out=out, overrides=SETTINGS)
    assert list(read(out)["audits"]) == ["paraphrase"] and not (out / "report.html").exists()
    kept = read(out)["audits"]["paraphrase"]
    with monkeypatch.context() as patched:
        patched.setattr(expunge.pipeline, "fit", lambda *_: (_ for _ in ()).throw(StoppedError("fitted again")))
        expunge.run(values(tiny), out=out, overrides=SETTINGS)
    assert list(read(out)["audits"]) == ["paraphrase", "many_shot"] and read(out)["audits"]["paraphrase"] == kept
    assert read(out)["audits"]["many_shot"]["details"]["shots"] == 2
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "After 2 unrelated questions" in page and "other ways, the erased model gives away" in page
    run = yaml.safe_load((out / "run.yaml").read_text(encoding="utf-8"))
    assert list(run["audits"]) == ["paraphrase", "many_shot"] and run["audits"]["many_shot"]["context"] == 16384


def test_every_seed_has_its_audits(tiny: Tiny, tmp_path: Path) -> None:
    audits = {"paraphrase": {"limit": 2, "disguises": []}}
    out = expunge.run(values(tiny, seeds=2, audits=audits), out=tmp_path / "run", overrides=SETTINGS)
    assert list(read(out)["audits"]) == ["paraphrase_seed_0", "paraphrase_seed_1"]
    for seed in (0, 1):
        assert read(out)["audits"][f"paraphrase_seed_{seed}"] == read(out / f"seed-{seed}")["audits"]["paraphrase"]
    assert "Paraphrase, seed 1" in (out / "report.html").read_text(encoding="utf-8")


def test_audits_that_failed_go_on_and_others_are_added(tiny: Tiny, tmp_path: Path, expunge_cli: Any) -> None:
    """Membership needs holdout rows, and there are none: failed each time, and what is done is not done again."""

    def run(*names: str) -> Any:
        file = tmp_path / "run_file.yaml"
        audits = {"paraphrase": {"limit": 2, "disguises": []}, "membership": {}}
        file.write_text(yaml.safe_dump(values(tiny, audits={name: audits[name] for name in names})), encoding="utf-8")
        return expunge_cli("run", file, "--out", tmp_path / "run", *SETTINGS)

    failed = run("membership")
    assert failed.code == 3 and "audits that failed: membership" in failed.err, failed.err
    assert "Of 1 audit: failed in 1 (membership)." in " ".join(failed.out.split())
    erasure = (tmp_path / "run" / "erasure" / "manifest.json").stat().st_mtime_ns
    assert run("membership").code == 3  # and no word of a run that is finished
    added = run("membership", "paraphrase")
    assert added.code == 3 and list(read(tmp_path / "run")["audits"]) == ["membership", "paraphrase"]
    kept = read(tmp_path / "run")["audits"]["paraphrase"]
    assert run("membership", "paraphrase").code == 3
    assert read(tmp_path / "run")["audits"]["paraphrase"] == kept
    assert (tmp_path / "run" / "erasure" / "manifest.json").stat().st_mtime_ns == erasure
    assert "name membership too" in run("paraphrase").err
