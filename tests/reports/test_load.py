"""Protects what a report is made from: only finished runs are read, and every problem of a folder is named at
once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from expunge.errors import InputError
from expunge.reports import ReportError, find_runs, load_run, load_runs

from .fake_runs import scores, write_json, write_run


def test_a_run_is_read_whole(run_folder: Path) -> None:
    run = load_run(run_folder)
    assert (run.method, run.suite, run.label) == ("npo", "tofu", "npo")
    assert run.rows["target"]["forget_probability"]["value"] == 0.921
    assert len(run.samples) == 40 + 60 + 12 + 12
    assert run.manifest is not None and run.manifest["kind"] == "weights"
    assert run.missing == () and run.seeds == () and run.audits is None


def test_a_comparison_is_found_by_its_methods(comparison: Path) -> None:
    assert [path.name for path in find_runs(comparison)] == ["grad_ascent", "grad_diff", "npo"]


def test_seed_folders_belong_to_the_run_above(seeds: Path) -> None:
    assert find_runs(seeds) == [seeds]
    run = load_run(seeds)
    assert [seed.folder.name for seed in run.seeds] == [f"seed-{n}" for n in range(5)]
    assert run.samples == run.seeds[0].samples
    # Seeds 0 to 4 have .0005, .0009, .0013, .0017, .0021.
    entry = run.rows["erased"]["forget_probability"]
    assert (entry["min"], entry["value"], entry["max"]) == pytest.approx((0.0005, 0.0013, 0.0021))


def test_runs_of_one_method_are_told_apart(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, "npo") for name in ("first", "second")]
    assert [run.label for run in load_runs(folders)] == ["first", "second"]
    assert load_runs([]) == []


def test_a_folder_of_audits_alone_is_a_run(tmp_path: Path) -> None:
    write_json(tmp_path / "audits.json", {"relearning": {"rows": {}}})
    run = load_run(tmp_path)
    assert run.rows == {} and "scores.json" in run.missing


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"There is no folder '.*nowhere'.*expunge demo"):
        find_runs(tmp_path / "nowhere")
    assert issubclass(ReportError, InputError)


def test_empty_folder_and_file(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"holds no run: there is no scores\.json"):
        find_runs(tmp_path)
    (tmp_path / "note.txt").write_text("x")
    with pytest.raises(ReportError, match="is a file"):
        find_runs(tmp_path / "note.txt")


def test_unfinished_runs_are_all_named_with_the_command(comparison: Path) -> None:
    for method in ("npo", "grad_diff"):
        (comparison / method / "scores.json").unlink()
    with pytest.raises(ReportError) as caught:
        find_runs(comparison)
    message = str(caught.value)
    for method in ("npo", "grad_diff"):
        folder = comparison / method
        assert f"'{folder}' has run.yaml, environment.json, erasure, training.jsonl but no scores.json" in message
        assert f"`expunge run {folder / 'run.yaml'} --out {folder}`" in message


def test_seeds_without_medians_are_unfinished(seeds: Path) -> None:
    (seeds / "scores.json").unlink()
    with pytest.raises(ReportError, match=r"has seed-0, .*no scores\.json"):
        find_runs(seeds)


def test_a_seed_that_has_not_finished_is_named(seeds: Path) -> None:
    (seeds / "seed-3" / "scores.json").unlink()
    with pytest.raises(ReportError, match=r"seed-3: no scores\.json"):
        load_run(seeds)


def test_loading_a_comparison_as_one_run_says_what_it_holds(comparison: Path) -> None:
    with pytest.raises(ReportError, match="holds 3: grad_ascent, grad_diff, npo"):
        load_run(comparison)


def test_damaged_files_are_reported_together(run_folder: Path) -> None:
    bad = scores()
    bad["rows"]["erased"]["model_utility"] = {"value": "high"}
    write_json(run_folder / "scores.json", bad)
    lines = (run_folder / "samples.jsonl").read_text().splitlines()
    lines[6] = '{"set": "forget", '
    lines[8] = json.dumps({"set": "forget", "index": 8})
    (run_folder / "samples.jsonl").write_text("\n".join(lines))
    (run_folder / "environment.json").write_text("[]")
    (run_folder / "run.yaml").write_text("model: [")
    with pytest.raises(ReportError) as caught:
        load_run(run_folder)
    message = str(caught.value)
    assert "rows.erased.model_utility has no number under 'value'" in message
    assert "samples.jsonl: line 7 is not JSON" in message
    assert "lacks prompt, expected, answers" in message
    assert "environment.json: found a list, expected an object" in message
    assert "run.yaml: cannot be read" in message


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"schema": 2}, "schema 2, this version reads schema 1"),
        ({"rows": []}, "rows is a list, expected an object"),
        ({"verdict": None}, "verdict is a NoneType"),
    ],
)
def test_scores_of_another_form_are_refused(run_folder: Path, change: dict[str, object], complaint: str) -> None:
    write_json(run_folder / "scores.json", scores() | change)
    with pytest.raises(ReportError, match=complaint):
        load_run(run_folder)


def test_scores_that_lack_a_key_are_refused(run_folder: Path) -> None:
    lacking = scores()
    del lacking["suite"], lacking["seconds"]
    write_json(run_folder / "scores.json", lacking)
    with pytest.raises(ReportError, match="lacks suite, seconds"):
        load_run(run_folder)


def test_an_evaluated_erasure_is_read_where_it_lies(run_folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "evaluated"
    write_run(elsewhere)  # its settings know of no erasure
    shutil.rmtree(elsewhere / "erasure", ignore_errors=True)
    settings = yaml.safe_load((elsewhere / "run.yaml").read_text())
    for place in (run_folder, run_folder / "erasure"):
        (elsewhere / "run.yaml").write_text(yaml.safe_dump({**settings, "erasure": str(place)}))
        assert load_run(elsewhere).manifest == load_run(run_folder).manifest
    (elsewhere / "run.yaml").write_text(yaml.safe_dump({**settings, "erasure": str(tmp_path / "gone")}))
    assert load_run(elsewhere).manifest is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"erased": None, "audits": {"paraphrase": {}}},
            r"no audits\.json.* The same `expunge audit` command",
        ),
        (
            {"erased": None, "suite": {"name": "request"}},
            r"no scores\.json.* same `expunge evaluate` command",
        ),
        (
            {"method": {"name": "npo"}, "audits": {"paraphrase": {}}},
            r"no scores\.json.* `expunge run .*\.yaml --out",
        ),
    ],
)
def test_the_verb_that_began_a_run_is_the_one_that_finishes_it(
    tmp_path: Path, settings: dict[str, object], said: str
) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(ReportError, match=said):
        find_runs(tmp_path)
