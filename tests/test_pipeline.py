"""Protects a whole run: the run folder as other tools read it, several seeds, going on after a kill at any stage."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import expunge
import expunge.pipeline
from conftest import Tiny
from expunge.errors import OutputError

SETTINGS = (
    "training.learning_rate=1e-3",
    "training.epochs=6",
    "training.accumulation=1",
    "training.score_every_steps=3",
    "training.max_new_tokens=4",
    "suite.limit=4",
)
STEPS = 6  # eight forget rows in batches of eight: one optimizer step an epoch
LABELS = {
    "broken",
    "gibberish",
    "over-unlearned",
    "not forgotten",
    "indistinguishable from never trained",
    "no claim",
}


def forget(tiny: Tiny, out: Path, *overrides: str, **options: Any) -> Path:
    files = {"retain": str(tiny.retain), "retrained": str(tiny.twin), **options}
    return expunge.forget(str(tiny.target), str(tiny.forget), out=out, overrides=(*SETTINGS, *overrides), **files)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def scores(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def done(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    return forget(tiny, tmp_path_factory.mktemp("pipeline") / "deep" / "run")


# --- the run folder ---


def test_the_folder_holds_the_contract_and_nothing_else(done: Path) -> None:
    assert sorted(path.name for path in done.iterdir()) == [
        "environment.json",
        "erasure",
        "report.html",
        "run.yaml",
        "samples.jsonl",
        "scores.json",
        "training.jsonl",
    ]
    assert sorted(path.name for path in (done / "erasure").iterdir()) == ["manifest.json", "weights.safetensors"]


def test_scores_json(done: Path) -> None:
    found = scores(done)
    assert list(found) == ["schema", "suite", "rows", "verdict", "seconds"]
    assert found["schema"] == 1
    assert found["suite"] == "request"
    assert list(found["rows"]) == ["target", "erased", "retrained"]
    for row in found["rows"].values():
        assert {"forget_probability", "retain_probability", "forget_rouge", "forget_quality"} <= set(row)
        for name, entry in row.items():
            assert set(entry) == {"value", "stderr", "n", "version"}, name
            assert math.isfinite(entry["value"])
            assert entry["stderr"] is None or entry["stderr"] >= 0
            assert isinstance(entry["n"], int)
            assert entry["n"] > 0
            assert isinstance(entry["version"], int)
        assert row["forget_probability"]["n"] == 4  # suite.limit
        assert row["forget_quality"]["stderr"] is None  # a p-value has its statistic beside it
        assert 0 <= row["forget_quality_ks"]["value"] <= 1
    assert set(found["rows"]["target"]) == set(found["rows"]["erased"]) == set(found["rows"]["retrained"])
    verdict = found["verdict"]
    assert set(verdict) == {"label", "sentence", "reasons", "effect", "left_out", "evidence"}
    assert verdict["label"] in LABELS - {"no claim"}
    assert verdict["effect"] == "removal"
    assert {"fit", "evaluate"} <= set(found["seconds"])
    assert all(value >= 0 for value in found["seconds"].values())


def test_what_was_forgotten_and_what_was_kept(done: Path) -> None:
    rows = scores(done)["rows"]
    before, after = rows["target"], rows["erased"]
    assert after["forget_probability"]["value"] < 0.5 * before["forget_probability"]["value"]
    assert after["retain_probability"]["value"] > 0.8 * before["retain_probability"]["value"]
    # the twin never saw the forget rows and knows the retain rows about as well as the target
    assert rows["retrained"]["forget_probability"]["value"] < 0.5 * before["forget_probability"]["value"]


def test_samples_jsonl(done: Path, tiny: Tiny) -> None:
    samples = lines(done / "samples.jsonl")
    by_set: dict[str, list[dict[str, Any]]] = {}
    for sample in samples:
        assert set(sample) == {"set", "index", "source", "prompt", "expected", "answers", "scores"}
        assert set(sample["answers"]) == set(sample["scores"]) == {"target", "erased", "retrained"}
        by_set.setdefault(sample["set"], []).append(sample)
    assert {"forget", "retain"} <= set(by_set)
    forget_rows = lines(tiny.forget)
    for place, sample in enumerate(by_set["forget"]):
        assert sample["index"] == place
        # eight rows, four of them scored, evenly spread: rows 0, 2, 4, 6
        row = forget_rows[2 * place]
        assert sample["source"] == f"forget.jsonl:{2 * place + 1}"
        assert (sample["prompt"], sample["expected"]) == (row["question"], row["answer"])
        wanted = {"probability", "rouge", "truth_ratio", "extraction_strength", "exact_memorization"}
        assert wanted <= set(sample["scores"]["erased"])
    # what the folder says of all rows is the mean of what it says of each
    mean = sum(sample["scores"]["erased"]["probability"] for sample in by_set["forget"]) / 4
    assert scores(done)["rows"]["erased"]["forget_probability"]["value"] == pytest.approx(mean, abs=1e-9)


def test_training_jsonl(done: Path) -> None:
    log = lines(done / "training.jsonl")
    steps = [line for line in log if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
    assert [line["epoch"] for line in steps] == [1, 2, 3, 4, 5, 6]
    for line in steps:
        assert set(line) == {
            "step",
            "epoch",
            "loss",
            "forget_loss",
            "retain_loss",
            "learning_rate",
            "grad_norm",
        }
        assert line["loss"] == pytest.approx(line["forget_loss"] + line["retain_loss"])
    # before the first step the model is its own reference: (2 / 0.1) log 2 = 13.863
    assert steps[0]["forget_loss"] == pytest.approx(20 * math.log(2), rel=1e-4)
    scored = [line for line in log if "scores" in line]
    assert [line["step"] for line in scored] == [0, 3, 6]
    for line in scored:
        assert set(line["scores"]) == {"forget_probability", "retain_probability"}


def test_environment_json(done: Path) -> None:
    found = json.loads((done / "environment.json").read_text(encoding="utf-8"))
    assert set(found) == {"schema", "expunge", "python", "platform", "packages", "hardware", "seeds", "data", "target"}
    assert found["expunge"] == expunge.__version__
    assert found["seeds"] == [0]
    assert {"torch", "transformers"} <= set(found["packages"])
    assert {name: entry["rows"] for name, entry in found["data"].items()} == {"forget": 8, "retain": 16}
    assert all(len(entry["sha256"]) == 64 for entry in found["data"].values())
    assert {"weights", "config", "tokenizer", "dtype", "source"} <= set(found["target"])
    assert found["target"]["dtype"] == "float32"
    assert found["target"]["source"] == "target"


def test_run_yaml_and_manifest_say_the_same(done: Path, tiny: Tiny) -> None:
    run = yaml.safe_load((done / "run.yaml").read_text(encoding="utf-8"))
    assert list(run) == ["model", "request", "method", "training", "suite", "audits", "retrained", "seeds"]
    assert run["method"] == {"name": "npo", "alpha": 1.0, "retain": "nll", "beta": 0.1}
    assert run["training"]["learning_rate"] == 1e-3
    assert run["model"]["path"] == str(tiny.target)
    assert run["suite"] == {"name": "request", "limit": 4}
    manifest = json.loads((done / "erasure" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["schema"] == 1
    assert (manifest["kind"], manifest["format"], manifest["method"]) == ("weights", "weight_change", "npo")
    assert manifest["parameters"] == {"alpha": 1.0, "retain": "nll", "beta": 0.1}
    environment = json.loads((done / "environment.json").read_text(encoding="utf-8"))
    assert manifest["target"]["weights"] == environment["target"]["weights"]


def test_the_report_is_one_page_that_names_no_network(done: Path) -> None:
    page = (done / "report.html").read_text(encoding="utf-8")
    assert "<script src=" not in page
    assert '<link rel="stylesheet" href=' not in page
    assert "npo" in page


def test_without_a_retrained_model_nothing_is_claimed(tiny: Tiny, tmp_path: Path) -> None:
    folder = forget(tiny, tmp_path / "run", "training.max_steps=1", retrained=None)
    found = scores(folder)
    assert set(found["rows"]) == {"target", "erased"}
    assert found["verdict"]["label"] == "no claim"
    assert "--retrained" in found["verdict"]["left_out"]["forget_quality"]
    assert "forget_quality" not in found["rows"]["erased"]


def test_the_erasure_works_in_python(done: Path, tiny: Tiny) -> None:
    model, tokenizer = expunge.load_model(str(tiny.target)), expunge.load_tokenizer(str(tiny.target))
    request = expunge.Request.load(tiny.forget, retain=tiny.retain)
    assert len(request.forget) == 8
    before = {name: value.clone() for name, value in model.state_dict().items()}
    erasure = expunge.Erasure.load(done / "erasure")
    ids = tokenizer("Question: Who?\nAnswer:", return_tensors="pt")
    plain = model(**ids).logits
    with erasure.applied(model) as erased:
        assert not erased(**ids).logits.equal(plain)
    assert model(**ids).logits.equal(plain)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


# --- several seeds ---


def test_several_seeds_nest_and_the_upper_scores_are_medians(tiny: Tiny, tmp_path: Path) -> None:
    folder = forget(tiny, tmp_path / "run", "training.max_steps=3", seeds=[3, 5, 9])
    assert sorted(path.name for path in folder.iterdir()) == [
        "environment.json",
        "report.html",
        "run.yaml",
        "scores.json",
        "seed-3",
        "seed-5",
        "seed-9",
    ]
    single = [scores(folder / f"seed-{seed}") for seed in (3, 5, 9)]
    upper = scores(folder)
    assert list(upper) == list(single[0])
    for model, row in upper["rows"].items():
        for name, entry in row.items():
            values = sorted(one["rows"][model][name]["value"] for one in single)
            assert set(entry) == {"value", "stderr", "n", "version", "min", "max"}
            assert [entry["min"], entry["value"], entry["max"]] == values
    erased = [one["rows"]["erased"]["forget_probability"]["value"] for one in single]
    assert len(set(erased)) == 3  # the seeds are seeds
    for seed in (3, 5, 9):
        part = folder / f"seed-{seed}"
        assert {"run.yaml", "environment.json", "erasure", "scores.json", "samples.jsonl", "training.jsonl"} == {
            path.name for path in part.iterdir()
        }
        run = yaml.safe_load((part / "run.yaml").read_text(encoding="utf-8"))
        assert (run["seeds"], run["training"]["seed"]) == ([seed], seed)
        assert json.loads((part / "environment.json").read_text(encoding="utf-8"))["seeds"] == [seed]
    # a seed among others gives what it gives alone
    alone = forget(tiny, tmp_path / "alone", "training.max_steps=3", seeds=[5])
    assert scores(alone)["rows"] == single[1]["rows"]


# --- going on ---


class Killed(BaseException):
    """Ends a run as a kill does: nothing below catches it."""


def killed(*_: Any, **__: Any) -> Any:
    raise Killed


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("this part was already done")


def test_killed_before_anything(tiny: Tiny, tmp_path: Path, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(expunge.pipeline, "environment", killed)
        forget(tiny, out)
    assert scores(forget(tiny, out))["rows"] == scores(done)["rows"]


def test_killed_in_training_with_kill_9(tiny: Tiny, tmp_path: Path, done: Path) -> None:
    out = tmp_path / "run"
    code = (
        "import os, signal, sys\n"
        "from expunge.training.run import History\n"
        "add = History.add\n"
        "def stop(self, line):\n"
        "    add(self, line)\n"
        "    if line.get('step') == 4:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "History.add = stop\n"
        "from expunge.cli.main import main\n"
        "main()\n"
    )
    files = ["-m", tiny.target, "-f", tiny.forget, "-r", tiny.retain, "--retrained", tiny.twin, "--out", out]
    command = [sys.executable, "-c", code, "forget", *map(str, files), *SETTINGS]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not (out / "scores.json").exists()
    assert not (out / "erasure").exists()
    assert lines(out / "training.jsonl")[-1]["step"] == 4

    assert scores(forget(tiny, out))["rows"] == scores(done)["rows"]
    steps = [line for line in lines(out / "training.jsonl") if "loss" in line]
    before = [line for line in lines(done / "training.jsonl") if "loss" in line]
    assert [line["step"] for line in steps] == [line["step"] for line in before]
    assert [line["loss"] for line in steps] == pytest.approx([line["loss"] for line in before])
    assert not (out / "checkpoints").exists()


def test_killed_after_the_erasure(tiny: Tiny, tmp_path: Path, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(expunge.pipeline, "evaluate_erasure", killed)
        forget(tiny, out)
    assert (out / "erasure").is_dir()
    monkeypatch.setattr(expunge.pipeline, "fit", never)
    assert scores(forget(tiny, out))["rows"] == scores(done)["rows"]


def test_killed_between_samples_and_scores(
    tiny: Tiny, tmp_path: Path, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("expunge.evaluation.score.write_json", killed)
        forget(tiny, out)
    assert (out / "samples.jsonl").is_file()
    assert not (out / "scores.json").exists()
    monkeypatch.setattr(expunge.pipeline, "fit", never)
    assert scores(forget(tiny, out))["rows"] == scores(done)["rows"]
    assert lines(out / "samples.jsonl") == lines(done / "samples.jsonl")


def test_killed_before_the_report(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(expunge.pipeline, "report", killed)
        forget(tiny, out)
    written = (out / "scores.json").read_bytes()
    monkeypatch.setattr(expunge.pipeline, "fit", never)
    monkeypatch.setattr(expunge.pipeline, "evaluate_erasure", never)
    forget(tiny, out)
    assert (out / "report.html").is_file()
    assert (out / "scores.json").read_bytes() == written


def test_killed_between_seeds(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, settings = tmp_path / "run", ("training.max_steps=1",)
    real, calls = expunge.pipeline.fit, []

    def counted(*arguments: Any) -> Any:
        calls.append(arguments[3].seeds)
        if len(calls) == 2:
            raise Killed
        return real(*arguments)

    monkeypatch.setattr(expunge.pipeline, "fit", counted)
    with pytest.raises(Killed):
        forget(tiny, out, *settings, seeds=2)
    first = (out / "seed-0" / "scores.json").read_bytes()
    forget(tiny, out, *settings, seeds=2)
    assert calls == [(0,), (1,), (1,)]
    assert (out / "seed-0" / "scores.json").read_bytes() == first
    assert "min" in scores(out)["rows"]["erased"]["forget_probability"]


def test_an_unfinished_run_whose_rows_changed_is_refused(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tmp_path / "forget.jsonl"
    rows.write_bytes(tiny.forget.read_bytes())
    arguments: dict[str, Any] = {
        "retain": str(tiny.retain),
        "out": tmp_path / "run",
        "overrides": (*SETTINGS, "training.max_steps=1"),
    }
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(expunge.pipeline, "evaluate_erasure", killed)
        expunge.forget(str(tiny.target), str(rows), **arguments)
    rows.write_text("\n".join(rows.read_text(encoding="utf-8").splitlines()[:7]), encoding="utf-8")
    with pytest.raises(OutputError, match="its data changed since it began"):
        expunge.forget(str(tiny.target), str(rows), **arguments)
    expunge.forget(str(tiny.target), str(rows), overwrite=True, **arguments)
    assert (tmp_path / "run" / "report.html").is_file()


def test_an_unfinished_run_of_other_settings_is_refused(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(expunge.pipeline, "evaluate_erasure", killed)
        forget(tiny, out, "training.max_steps=1")
    with pytest.raises(OutputError, match=r"another run: training\.max_steps was 1, now 2"):
        forget(tiny, out, "training.max_steps=2")


def test_somebodys_own_run_file_is_not_replaced(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    own = f"# my notes\nmodel: {tiny.target}\nrequest: {tiny.forget}\nmethod: npo\n"
    (out / "run.yaml").write_text(own, encoding="utf-8")
    with pytest.raises(OutputError, match="holds another run"):
        expunge.run(out / "run.yaml", out=out)
    assert (out / "run.yaml").read_text(encoding="utf-8") == own


# --- from rows to a target, its twin and back ---


def test_train_makes_the_target_and_the_twin(tiny: Tiny, tmp_path: Path) -> None:
    settings = ("training.learning_rate=5e-3", "training.accumulation=1", "training.epochs=25")
    files = {"target": [str(tiny.forget), str(tiny.retain)], "twin": [str(tiny.retain)]}
    for name, data in files.items():
        expunge.train(str(tiny.base), data, out=tmp_path / name, overrides=settings)
        assert (tmp_path / name / "train.yaml").is_file()
        assert not (tmp_path / name / "checkpoints").exists()
    found = expunge.evaluate(
        str(tmp_path / "target"),
        retrained=str(tmp_path / "twin"),
        request={"forget": str(tiny.forget), "retain": str(tiny.retain)},
        metrics=["probability"],
    ).to_json()["rows"]
    known = found["target"]["forget_probability"]["value"]
    assert known > 0.2
    assert found["retrained"]["forget_probability"]["value"] < 0.5 * known
    assert found["retrained"]["retain_probability"]["value"] > 0.2
