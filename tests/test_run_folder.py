"""Protects the rules for output folders: new, resumed or refused, and nothing that is no run is ever deleted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from expunge.config.run_file import make_config
from expunge.errors import OutputError
from expunge.run_folder import RunFolder, environment

TEXT = "model: here\nseed: 1\n"


def run_in(folder: Path, text: str = TEXT, *, finished: bool = False) -> Path:
    folder.mkdir()
    (folder / "run.yaml").write_text(text)
    (folder / "erasure").mkdir()
    (folder / "erasure" / "manifest.json").write_text("{}")
    if finished:
        (folder / "report.html").write_text("done")
    return folder


def content(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_new_folder_is_made(tmp_path: Path, overwrite: bool) -> None:
    folder = RunFolder.open(tmp_path / "deep" / "run", TEXT, overwrite=overwrite)
    assert content(folder.path) == ["run.yaml"]
    assert folder.run_file.read_text() == TEXT
    assert (folder.finished, folder.scored, folder.erasure()) == (False, False, None)


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    assert content(RunFolder.open(tmp_path, TEXT).path) == ["run.yaml"]


def test_an_unfinished_run_of_the_same_settings_is_resumed(tmp_path: Path) -> None:
    folder = run_in(tmp_path / "run")
    assert content(RunFolder.open(folder, TEXT).path) == ["erasure", "erasure/manifest.json", "run.yaml"]


def test_a_finished_run_is_refused(tmp_path: Path) -> None:
    folder = run_in(tmp_path / "run", finished=True)
    with pytest.raises(OutputError, match=r"holds this run, finished. See .*report.html; pass --overwrite"):
        RunFolder.open(folder, TEXT)
    assert "report.html" in content(folder)


@pytest.mark.parametrize("finished", [False, True])
def test_another_run_is_refused(tmp_path: Path, finished: bool) -> None:
    folder = run_in(tmp_path / "run", finished=finished)
    before = content(folder)
    with pytest.raises(OutputError, match=r"holds another run: seed was 1, now 2\. .*pass --overwrite"):
        RunFolder.open(folder, TEXT.replace("1", "2"))
    assert content(folder) == before


def test_a_run_that_stopped_before_it_began_gives_way(tmp_path: Path) -> None:
    # It left its run file and its environment, then was refused (a wrong file, say): nothing is lost.
    folder = RunFolder.open(tmp_path, TEXT)
    folder.record({"data": {}, "target": {}})
    RunFolder.open(tmp_path, "another: run\n")
    assert content(tmp_path) == ["run.yaml"]


def test_a_run_file_alone_may_be_somebodys_own(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("by: hand\n")
    with pytest.raises(OutputError, match="holds another run"):
        RunFolder.open(tmp_path, TEXT)
    (tmp_path / "run.yaml").write_bytes(b"\xff: [")
    with pytest.raises(OutputError, match=r"its run.yaml cannot be read"):
        RunFolder.open(tmp_path, TEXT)


def test_asking_writes_nothing(tmp_path: Path) -> None:
    RunFolder.check(tmp_path / "deep" / "run", TEXT)
    assert content(tmp_path) == []
    with pytest.raises(OutputError, match="holds another run"):
        RunFolder.check(run_in(tmp_path / "run"), "another: run\n")


@pytest.mark.parametrize("text", [TEXT, "another: run\n"])
@pytest.mark.parametrize("finished", [False, True])
def test_overwrite_deletes_a_run_and_starts_anew(tmp_path: Path, text: str, finished: bool) -> None:
    folder = run_in(tmp_path / "run", finished=finished)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    (folder / "seed-1").symlink_to(outside, target_is_directory=True)
    (folder / "environment.json").write_text("{}")
    RunFolder.open(folder, text, overwrite=True)
    assert content(folder) == ["run.yaml"]
    assert (folder / "run.yaml").read_text() == text
    assert (outside / "kept").exists()  # a link is deleted, not what it points to


@pytest.mark.parametrize("overwrite", [False, True])
def test_files_that_are_no_run_are_never_touched(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match=r"holds no run \(there is no run.yaml in it\), so nothing in it is touched"):
        RunFolder.open(tmp_path, TEXT, overwrite=overwrite)
    assert content(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_in_the_way_is_refused(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(OutputError, match=r"is a file. Choose a folder"):
        RunFolder.open(tmp_path / "file", TEXT, overwrite=overwrite)
    with pytest.raises(OutputError, match="a part of the path is a file"):
        RunFolder.open(tmp_path / "file" / "run", TEXT, overwrite=overwrite)


def test_rests_of_a_kill_before_the_run_file_do_not_block_the_folder(tmp_path: Path) -> None:
    (tmp_path / ".run.yaml.4711.tmp").write_text("mod")
    RunFolder.open(tmp_path, TEXT)
    assert content(tmp_path) == ["run.yaml"]


def test_rests_of_a_kill_are_swept_when_resuming(tmp_path: Path) -> None:
    folder = run_in(tmp_path / "run")
    (folder / ".erasure.4711.tmp").mkdir()
    (folder / ".erasure.4711.tmp" / "half").touch()
    (folder / ".hidden").touch()
    RunFolder.open(folder, TEXT)
    assert content(folder) == [".hidden", "erasure", "erasure/manifest.json", "run.yaml"]


def test_the_run_file_is_deleted_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A kill while overwriting leaves a folder that is still known as a run, so that overwriting can be tried again.
    folder = run_in(tmp_path / "run", finished=True)
    order: list[str] = []
    monkeypatch.setattr("expunge.run_folder._delete", lambda entry: order.append(entry.name))
    RunFolder(folder).clear()
    assert order[-1] == "run.yaml"
    assert set(order) == {"run.yaml", "report.html", "erasure"}


def test_other_commands_have_their_own_first_and_last_file(tmp_path: Path) -> None:
    def open_(text: str = TEXT) -> RunFolder:
        return RunFolder.open(tmp_path, text, run_name="train.yaml", last="config.json")

    open_()
    assert content(tmp_path) == ["train.yaml"]
    open_()
    (tmp_path / "config.json").touch()
    with pytest.raises(OutputError, match=r"finished. See .*config.json"):
        open_()
    with pytest.raises(OutputError, match="holds another run: seed was 1, now 2"):
        open_(TEXT.replace("1", "2"))
    with pytest.raises(OutputError, match=r"there is no run.yaml in it"):
        RunFolder.open(tmp_path, TEXT, overwrite=True)


def test_a_folder_that_may_not_be_read_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(OutputError, match="permission denied; choose a folder you may write to"):
        RunFolder.open(tmp_path, TEXT)


def test_a_full_disk_leaves_no_half_run_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="the disk is full"):
        RunFolder.open(tmp_path / "run", TEXT)
    assert content(tmp_path) == ["run"]


def test_a_run_whose_data_or_target_changed_is_not_resumed(tmp_path: Path) -> None:
    folder = RunFolder.open(tmp_path, TEXT)
    facts = environment(seeds=(0,), data={"forget": {"rows": 2}}, target={"weights": "a"})
    folder.record(facts)
    folder.record({**facts, "python": "4.0"})  # other versions do not matter
    for part in ("data", "target"):
        with pytest.raises(OutputError, match=f"its {part} changed since it began"):
            folder.record({**facts, part: {"other": 1}})


def test_the_environment_names_what_a_result_depends_on() -> None:
    facts = json.loads(json.dumps(environment(seeds=(0, 1), data={"forget": {}}, target={"weights": "a"})))
    assert list(facts) == ["schema", "expunge", "python", "platform", "packages", "hardware", "seeds", "data", "target"]
    assert {"torch", "transformers", "peft"} <= set(facts["packages"])
    assert {"cpu", "cores", "memory_gb", "gpus"} <= set(facts["hardware"])
    assert facts["seeds"] == [0, 1]


def test_each_of_several_seeds_has_its_folder(tmp_path: Path) -> None:
    values: dict[str, Any] = {"model": "m", "request": "f.jsonl", "method": "npo", "seeds": 2}
    config = make_config(values)
    folder = RunFolder.open(tmp_path, config.to_yaml())
    (tmp_path / "seed-1").mkdir()
    (tmp_path / "seed-1" / ".erasure.1.tmp").mkdir()
    seeds = [folder.seed_folder(config, seed) for seed in config.seeds]
    assert [seed.path.name for seed in seeds] == ["seed-0", "seed-1"]
    assert content(tmp_path) == ["run.yaml", "seed-0", "seed-0/run.yaml", "seed-1", "seed-1/run.yaml"]
    assert "seed: 1" in seeds[1].run_file.read_text()
    alone = make_config({**values, "seeds": [5]})
    assert folder.seed_folder(alone, 5) is folder


def test_checkpoints_go_at_the_end(tmp_path: Path) -> None:
    folder = RunFolder.open(tmp_path, TEXT)
    (tmp_path / "checkpoints" / "key").mkdir(parents=True)
    folder.drop_checkpoints()
    folder.drop_checkpoints()
    assert content(tmp_path) == ["run.yaml"]


def test_overwrite_never_deletes_what_no_run_wrote(tmp_path: Path) -> None:
    folder = run_in(tmp_path / "run", finished=True)
    (folder / "thesis.tex").write_text("years of work")
    before = content(folder)
    with pytest.raises(
        OutputError, match=r"holds files that are no run's \(thesis\.tex\), so nothing in it is touched"
    ):
        RunFolder.open(folder, TEXT, overwrite=True)
    assert content(folder) == before


def test_a_run_file_written_by_hand_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("model: mine\n")
    with pytest.raises(OutputError, match="was not written by a run"):
        RunFolder.open(tmp_path, TEXT, overwrite=True)
    assert (tmp_path / "run.yaml").read_text() == "model: mine\n"


def test_two_processes_never_write_one_run(tmp_path: Path) -> None:
    held = RunFolder.open(tmp_path / "run", TEXT)
    code = (
        "import sys; from expunge.run_folder import RunFolder; from expunge.errors import OutputError\n"
        "try: RunFolder.open(sys.argv[1], sys.argv[2])\n"
        "except OutputError as error: sys.exit(str(error))"
    )
    again = [sys.executable, "-c", code, str(held.path), TEXT]
    refused = subprocess.run(again, capture_output=True, text=True, check=False)
    assert "is being written by another process" in refused.stderr
    assert held._held is not None
    held._held.close()
    assert subprocess.run(again, capture_output=True, text=True, check=False).returncode == 0


def test_audits_that_failed_or_wait_leave_a_run_unfinished(tmp_path: Path) -> None:
    folder = run_in(tmp_path / "run", finished=True)
    (folder / "audits.json").write_text('{"finished": false, "audits": {}}')
    assert "report.html" in content(RunFolder.open(folder, TEXT).path)
    for found in ('{"finished": true}', "{}", "[]", "damaged"):
        (folder / "audits.json").write_text(found)
        with pytest.raises(OutputError, match="holds this run, finished"):
            RunFolder.check(folder, TEXT)


def test_audits_are_added_to_a_run_and_none_taken_away(tmp_path: Path) -> None:
    def text(audits: str) -> str:
        return f"{TEXT}audits: {audits}\n"

    one, two = text("{paraphrase: {limit: 3}}"), text("{paraphrase: {limit: 3}, many_shot: {shots: 2}}")
    folder = run_in(tmp_path / "run", text("[]"), finished=True)
    for more in (one, two):
        opened = RunFolder.open(folder, more)
        assert opened.run_file.read_text() == more and (folder / "erasure" / "manifest.json").is_file()
    with pytest.raises(OutputError, match="its audits are paraphrase, many_shot; name many_shot too, and what is done"):
        RunFolder.open(folder, one)
    for other, said in (
        (two.replace("limit: 3", "limit: 4"), "audits.paraphrase.limit was 3, now 4"),
        (two.replace("seed: 1", "seed: 2"), "seed was 1, now 2"),
        (two.replace("seed: 1", "seed: 2").replace("}}", "}, x: {}}"), "seed was 1, now 2"),
    ):
        with pytest.raises(OutputError, match=said):
            RunFolder.open(folder, other)
    assert folder.joinpath("run.yaml").read_text() == two


def test_all_that_changed_since_a_run_began_is_named(tmp_path: Path) -> None:
    folder = RunFolder.open(tmp_path, TEXT)
    before = {"data": {"n": 1}, "target": {"w": 1}, "erasure": {"w": 1}, "retrained": {"w": 1}}
    folder.record(before)
    with pytest.raises(OutputError, match="and its erasure and its retrained model changed since it began"):
        folder.record({**before, "erasure": {"w": 2}, "retrained": {"w": 2}})
    with pytest.raises(OutputError, match="and its target changed since it began"):
        folder.record({**before, "target": {"w": 2}})
    folder.record({**before, "erased": {"w": 2}})  # of which an earlier version wrote nothing
