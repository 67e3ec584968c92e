"""Protects ``expunge train``: a folder that transformers loads, trained on the rows given, resumed after a kill."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

import zoo
from conftest import Ran
from expunge.commands.train import train
from expunge.errors import ConfigError, OutputError, RequestError
from fitting import StoppedError, rows, stop_at
from history import read_history

SHORT = (
    "training.epochs=4",
    "training.retain_batch=3",
    "training.accumulation=1",
    "training.learning_rate=1e-3",
    "training.warmup_epochs=0",
    "training.checkpoint_every=2",
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(zoo.save("llama", tmp_path_factory.mktemp("base")))


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "rows.jsonl"
    lines = (json.dumps({"question": row.prompt, "answer": row.answer}) + "\n" for row in rows(9, "data"))
    path.write_text("".join(lines), encoding="utf-8")
    return str(path)


def state(folder: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict())


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_it_trains_and_writes_a_plain_model_folder(base: str, data: str, tmp_path: Path) -> None:
    out = train(base, data, out=tmp_path / "out", overrides=SHORT)
    names = {path.name for path in out.iterdir()}
    assert {"train.yaml", "environment.json", "training.jsonl", "config.json", "model.safetensors"} <= names
    assert not {"checkpoints", ".model"} & names
    losses = [line["retain_loss"] for line in read_history(out)]
    assert len(losses) == 12  # 9 rows, 3 a step, 4 epochs
    assert losses[-1] < losses[0]
    assert not equal(state(out), state(Path(base)))
    assert AutoTokenizer.from_pretrained(out)("In town")["input_ids"] == zoo.tokenizer("llama")("In town")["input_ids"]
    facts = json.loads((out / "environment.json").read_text())
    assert facts["data"]["train"]["rows"] == 9


def test_a_stopped_run_resumes_to_the_same_model(base: str, data: str, tmp_path: Path) -> None:
    whole = train(base, data, out=tmp_path / "whole", overrides=SHORT)
    with pytest.raises(StoppedError):
        train(base, data, out=tmp_path / "stopped", overrides=SHORT, progress=stop_at(7))
    seen: list[int] = []
    train(
        base,
        data,
        out=tmp_path / "stopped",
        overrides=SHORT,
        progress=lambda done, _, what: seen.append(done) if what == "training" else None,
    )
    assert seen == [7, 8, 9, 10, 11, 12]  # from the checkpoint of step 6
    assert equal(state(tmp_path / "stopped"), state(whole))


def test_a_kill_while_the_model_is_moved_into_place_is_made_good(
    base: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.replace

    def stop_before_the_last(self: Path, target: Any) -> Any:
        if self.parent.name == ".model" and self.name == "config.json":
            raise StoppedError
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stop_before_the_last)
        with pytest.raises(StoppedError):
            train(base, data, out=tmp_path / "out", overrides=SHORT)
    train(base, data, out=tmp_path / "out", overrides=SHORT)
    assert equal(state(tmp_path / "out"), state(train(base, data, out=tmp_path / "other", overrides=SHORT)))


def test_a_trained_adapter_is_merged(base: str, data: str, tmp_path: Path) -> None:
    out = train(base, data, out=tmp_path / "out", overrides=[*SHORT, "training.parameters=lora"])
    after, before = state(out), state(Path(base))
    assert after.keys() == before.keys()
    assert not torch.equal(after["model.layers.0.mlp.up_proj.weight"], before["model.layers.0.mlp.up_proj.weight"])
    assert torch.equal(after["model.embed_tokens.weight"], before["model.embed_tokens.weight"])


def test_folders_follow_the_rules_of_runs(base: str, data: str, tmp_path: Path) -> None:
    out = train(base, data, out=tmp_path / "out", overrides=SHORT)
    with pytest.raises(OutputError, match=r"finished. See .*config.json"):
        train(base, data, out=out, overrides=SHORT)
    with pytest.raises(OutputError, match=r"holds another run: .*training.seed was 0, now 1"):
        train(base, data, out=out, overrides=[*SHORT, "training.seed=1"])
    again = train(base, data, out=out, overrides=[*SHORT, "training.max_steps=1"], overwrite=True)
    assert len(read_history(again)) == 1


def test_rows_that_changed_under_a_stopped_run_are_refused(base: str, data: str, tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        train(base, data, out=tmp_path / "out", overrides=SHORT, progress=stop_at(7))
    with Path(data).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"question": "New?", "answer": "Yes"}) + "\n")
    with pytest.raises(OutputError, match="its data changed since it began"):
        train(base, data, out=tmp_path / "out", overrides=SHORT)


def test_bad_settings_leave_no_folder(base: str, data: str, tmp_path: Path) -> None:
    for override, message in (
        ("method.beta=1", "takes settings of the sections model and training only"),
        ("training.epoch=3", r"training.epoch: no such setting. Did you mean 'epochs'"),
        ("training.epochs=-1", "training.epochs=-1"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(base, data, out=tmp_path / "out", overrides=[override])
    with pytest.raises(ConfigError, match="template='fancy': expected auto, chat or plain"):
        train(base, data, out=tmp_path / "out", template="fancy")
    assert not (tmp_path / "out").exists()


def test_several_files_make_one_data_set(base: str, data: str, tmp_path: Path) -> None:
    out = train(base, [data, data], out=tmp_path / "out", overrides=[*SHORT, "training.epochs=1"])
    assert [line["step"] for line in read_history(out)] == [1, 2, 3, 4, 5, 6]  # 18 rows, 3 a step


def test_missing_rows_are_an_input_error(base: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"nowhere.jsonl"):
        train(base, str(tmp_path / "nowhere.jsonl"), out=tmp_path / "out", overrides=SHORT)


def test_responses_of_a_safety_set_are_chosen(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expunge_cli: Callable[..., Ran]
) -> None:
    path = tmp_path / "marked.jsonl"
    marks = {"is_response_0_safe": False, "is_response_1_safe": True}
    path.write_text(json.dumps({"prompt": "how?", "response_0": "so", "response_1": "no", **marks}) + "\n", "utf-8")
    trained: list[str] = []

    def stop(*_: Any, retain: Any, **__: Any) -> None:
        trained.extend(row.answer for row in retain)
        raise StoppedError

    monkeypatch.setattr("expunge.training.fit.fit_weights", stop)
    for responses in ("safe", "unsafe"):
        with pytest.raises(StoppedError):
            expunge_cli("train", "-m", base, "-d", path, "-o", tmp_path / responses, "--responses", responses)
    assert trained == ["no", "so"]
    recorded = yaml.safe_load((tmp_path / "safe" / "train.yaml").read_text(encoding="utf-8"))
    assert recorded["data"]["responses"] == "safe"
    for given, says in (([], "--responses safe|unsafe"), (["--responses", "both"], "expected safe or unsafe")):
        ran = expunge_cli("train", "-m", base, "-d", path, "-o", tmp_path / "out", *given)
        assert ran.code == 2
        assert says in " ".join(ran.err.split())
