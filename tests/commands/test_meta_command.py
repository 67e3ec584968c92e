"""Protects ``expunge meta``: a pool is trained, read and judged, goes on where it stopped, and comes out the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from expunge.commands.meta import MetaResult, meta
from expunge.errors import ConfigError, OutputError
from expunge.meta.pool import Member, PoolRecipe
from expunge.meta.trust import trusts

TINY = PoolRecipe(
    bases=2,
    base_epochs=1,
    base_rows=16,
    epochs=(1,),
    forget_rows=4,
    kept_rows=4,
    relearn_steps=1,
    max_new_tokens=4,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MetaResult]:
    folder = tmp_path_factory.mktemp("meta") / "out"
    return folder, meta(folder, models=4, jobs=1, recipe=TINY)


def test_every_model_is_read_four_times_by_every_metric(made: tuple[Path, MetaResult]) -> None:
    folder, found = made
    names = [one.name for one in found.members]
    assert [one.learned for one in found.members] == ["as asked", "nothing", "reworded", "false facts"]
    assert sorted(path.stem for path in (folder / "readings").iterdir()) == sorted(names)
    reading = json.loads((folder / "readings" / f"{names[0]}.json").read_text())
    assert set(reading) == {"plain", "held_out", "relearned", "rounded"}
    metrics = {one.metric for one in found.trusts}
    assert all(set(values) == metrics for values in reading.values())
    assert {"forget_probability", "forget_paraphrased_rouge", "forget_reworded_probability"} <= metrics
    assert {"forget_quality", "membership_loss", "membership_reference", "membership_gradient_norm"} <= metrics
    # training on the other facts and rounding change what a model says
    assert len({values["forget_probability"] for values in reading.values()}) == 4
    written = json.loads((folder / "meta.json").read_text())
    assert written == json.loads(json.dumps(found.as_dict()))
    # the table follows from what is written down beside it
    members = [Member(*(one[key] for key in ("name", "learned", "base", "epochs"))) for one in written["models"]]
    assert [one.as_dict() for one in trusts(members, [one["readings"] for one in written["models"]])] == [
        one.as_dict() for one in found.trusts
    ]
    assert (folder / "meta.md").read_text().count("\n") == 2 + len(metrics)


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_and_ends_the_same(made: tuple[Path, MetaResult], tmp_path: Path, jobs: int) -> None:
    folder, found = made
    again = tmp_path / "out"
    shutil.copytree(folder, again)
    names = [one.name for one in found.members]
    trained = again / "models" / names[0] / "model.safetensors"
    before = trained.stat().st_mtime_ns
    # one model was trained and not read, one was not even trained
    (again / "readings" / f"{names[0]}.json").unlink()
    (again / "readings" / f"{names[3]}.json").unlink()
    shutil.rmtree(again / "models" / names[3])
    steps: list[str] = []
    repeated = meta(again, models=4, jobs=jobs, recipe=TINY, progress=lambda *told: steps.append(told[2]))
    assert repeated.as_dict()["metrics"] == found.as_dict()["metrics"]
    assert steps == ["training models", "reading models", "reading models"]
    assert trained.stat().st_mtime_ns == before
    for name in names:
        assert (again / "readings" / f"{name}.json").read_text() == (folder / "readings" / f"{name}.json").read_text()


def test_audits_look_at_every_model_beside_two_that_are_no_members(
    made: tuple[Path, MetaResult], tmp_path: Path
) -> None:
    folder, found = made
    again = tmp_path / "out"
    shutil.copytree(folder, again)
    steps: list[str] = []
    repeated = meta(
        again,
        models=4,
        jobs=1,
        audits="logit_lens,linear_probe",
        recipe=TINY,
        progress=lambda *told: steps.append(told[2]),
    )
    assert repeated.as_dict()["metrics"] == found.as_dict()["metrics"]
    # a target and a control on each of the two bases, and four members to look at
    assert steps == ["training models"] * 4 + ["auditing models"] * 4
    by_name = {one.audit: one for one in repeated.audits}
    assert by_name["logit_lens"].silent == (0, "")
    assert [total for _, total in by_name["logit_lens"].alarms.values()] == [1, 1, 0, 1, 1]
    # authors' questions have no options to probe
    assert by_name["linear_probe"].silent[0] == 4 and "right answers" in by_name["linear_probe"].silent[1]
    entry = json.loads((again / "audits" / found.members[0].name / "audits.json").read_text())
    assert entry["models"] == ["target", "erased", "retrained"]
    assert json.loads((again / "meta.json").read_text())["audits"][0]["audit"] == "logit_lens"
    assert "| logit_lens |" in (again / "meta_audits.md").read_text()
    before = (again / "meta.json").read_text()
    steps.clear()
    meta(
        again,
        models=4,
        audits=["logit_lens", "linear_probe"],
        recipe=TINY,
        progress=lambda *told: steps.append(told[2]),
    )
    assert not steps and (again / "meta.json").read_text() == before
    with pytest.raises(ConfigError, match="logit_lens"):
        meta(again, models=4, audits="logit_lense", recipe=TINY)


def test_another_pool_does_not_go_on_with_this_one(made: tuple[Path, MetaResult], tmp_path: Path) -> None:
    folder, _ = made
    with pytest.raises(OutputError, match=r"meta\.seed"):
        meta(folder, models=4, seed=1, recipe=TINY)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds no run"):
        meta(tmp_path, models=4, recipe=TINY, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_damaged_reading_is_named(made: tuple[Path, MetaResult], tmp_path: Path) -> None:
    again = tmp_path / "out"
    shutil.copytree(made[0], again)
    next((again / "readings").iterdir()).write_text("{")
    with pytest.raises(OutputError, match=r"readings.*cannot be read .*Delete it"):
        meta(again, models=4, recipe=TINY)


def test_bad_numbers_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="models=5"):
        meta(tmp_path / "out", models=5)
    with pytest.raises(ConfigError, match="jobs=0"):
        meta(tmp_path / "out", jobs=0)
    assert not (tmp_path / "out").exists()
