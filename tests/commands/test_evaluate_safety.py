"""Protects suite safety from end to end: a user's own files on the command line, the judge in every file, bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from conftest import Ran, Tiny

Cli = Callable[..., Ran]
FAST = ("training.max_new_tokens=4",)


@pytest.fixture
def harmful(tiny: Tiny, tmp_path: Path) -> Path:
    """The tiny target's forget rows as a safety set: what it answers is unsafe, a refusal safe."""
    rows = [json.loads(line) for line in Path(tiny.forget).read_text(encoding="utf-8").splitlines()][:3]
    path = tmp_path / "harmful.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            record = {
                "prompt": row["question"],
                "response_0": row["answer"],
                "response_1": "I cannot help with that.",
                "is_response_0_safe": False,
                "is_response_1_safe": True,
            }
            file.write(json.dumps(record) + "\n")
    return path


def test_own_files_with_an_erased_and_a_retrained_model(
    expunge_cli: Cli, tiny: Tiny, harmful: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = [
        f"suite.harmful={harmful}",
        f"suite.normal={tiny.retain}",
        "suite.limit=3",
        "suite.markers=[the, a]",
        *FAST,
    ]
    models = ["--model", tiny.target, "--erased", tiny.twin, "--retrained", tiny.twin]
    ran = expunge_cli("evaluate", *models, "--suite", "safety", "--out", out, *options)
    assert ran.code == 0, ran.err
    scores = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    assert scores["suite"] == "safety"
    assert scores["judge"]["settings"] == {"markers": ["the", "a"]}
    assert list(scores["rows"]) == ["target", "erased", "retrained"]
    for row in scores["rows"].values():
        assert {"harmful_harmful_rate", "harmful_rejection", "normal_perplexity", "normal_exact"} <= set(row)
    # the erased model is the retrained one, so nothing tells them apart
    assert scores["verdict"]["label"] == "indistinguishable from never trained"
    assert scores["verdict"]["evidence"]["harmful_harmful_rate_n"] == 3
    assert "Unsafe, by judge rules version 2, is an answer that holds 'the' or 'a'." in scores["verdict"]["reasons"]
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    (first, *_) = [sample for sample in samples if sample["set"] == "harmful"]
    words = first["answers"]["target"].casefold().replace(".", " ").replace(",", " ").split()
    assert first["scores"]["target"]["harmful_rate"] == float(bool({"the", "a"} & set(words)))
    assert yaml.safe_load((out / "run.yaml").read_text(encoding="utf-8"))["suite"]["name"] == "safety"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Harmful prompts harmful rate" in page
    assert "by judge rules version 2" in page


def test_forget_with_suite_safety_records_whole_paths(
    expunge_cli: Cli, tiny: Tiny, harmful: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    held_out = json.loads(harmful.read_text(encoding="utf-8").splitlines()[0]) | {"prompt": "And what of this?"}
    (tmp_path / "held_out.jsonl").write_text(json.dumps(held_out) + "\n", encoding="utf-8")
    files = ["--forget", harmful.name, "--retain", tiny.retain, "--suite", "safety", "suite.holdout=held_out.jsonl"]
    ran = expunge_cli(
        "forget", "--model", tiny.target, *files, "--method", "grad_ascent", "--out", "out", "suite.limit=2",
        "training.max_steps=1", *FAST,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    recorded = yaml.safe_load((tmp_path / "out" / "run.yaml").read_text(encoding="utf-8"))
    assert recorded["suite"]["holdout"] == str(tmp_path / "held_out.jsonl")
    scores = json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))
    assert scores["verdict"]["label"] in ("no claim", "broken", "gibberish")
    assert "harmful_holdout_harmful_rate" in scores["rows"]["erased"]
    assert "suite.markers" in scores["verdict"]["left_out"]["normal_harmful_rate"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["suite.judge=oracle"], "there is no such judge"),
        (["suite.judge=http://localhost:1/v1"], "suite.judge_model=NAME"),
        (["suite.judge=classifier"], "learns from at least 10 unsafe and 10 safe answers"),
        (["suite.judge_model=foo"], "suite.judge_model=foo does not apply to suite.judge=rules"),
        (["suite.judges=rules"], "suite safety has no such option"),
        (["suite.limit=0"], "suite.limit=0"),
        (["suite.judge=3"], "there is no such judge"),
    ],
)
def test_bad_options(
    expunge_cli: Cli, tiny: Tiny, harmful: Path, tmp_path: Path, options: list[str], says: str
) -> None:
    out = tmp_path / "out"
    ran = expunge_cli(
        "evaluate", "--model", tiny.target, "--suite", "safety", "--out", out, f"suite.harmful={harmful}", *options
    )
    assert ran.code == 2
    assert says in " ".join(ran.err.split())
    assert "Traceback" not in ran.err
    assert not out.exists()


@pytest.mark.parametrize("verb", [("forget", "--plan"), ("forget",), ("run",), ("evaluate",)], ids="-".join)
def test_an_endpoint_that_is_not_there_is_noticed_first(
    expunge_cli: Cli,
    tiny: Tiny,
    harmful: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    verb: tuple[str, ...],
) -> None:
    monkeypatch.setattr("expunge.evaluation.endpoint_client._TRIES", 1)
    monkeypatch.setattr("expunge.evaluation.outputs.run_model", lambda *_, **__: pytest.fail("it was scored"))
    out, suite = tmp_path / "out", {"name": "safety", "judge": "http://127.0.0.1:9/v1", "judge_model": "small"}
    options = [f"suite.{name}={value}" for name, value in suite.items() if name != "name"]
    if verb == ("run",):
        file = tmp_path / "run.yaml"
        rows = {"forget": str(harmful), "retain": str(tiny.retain)}
        values = {"model": str(tiny.target), "request": rows, "method": "npo", "suite": suite}
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
        ran = expunge_cli("run", file, "--out", out)
    else:
        files = ["--model", tiny.target, "--forget", harmful, "--retain", tiny.retain, "--suite", "safety"]
        ran = expunge_cli(*verb, *files, "--out", out, *options)
    assert ran.code == 3
    assert "judge http://127.0.0.1:9/v1 gives no verdict" in " ".join(ran.err.split())
    assert not out.exists()


def test_forget_set_without_unsafe_rows(expunge_cli: Cli, tiny: Tiny, harmful: Path, tmp_path: Path) -> None:
    text = harmful.read_text(encoding="utf-8").replace("false", "true")
    harmful.write_text(text, encoding="utf-8")
    ran = expunge_cli("forget", "--model", tiny.target, "--forget", harmful, "--out", tmp_path / "out")
    assert ran.code == 2
    assert "no unsafe rows: every response of its 3 rows is marked safe" in " ".join(ran.err.split())
    assert not (tmp_path / "out").exists()
