"""Protects ``--plan``: it reads no weights, writes nothing, refuses what the run would refuse, and fits 80 columns."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import expunge.commands.plan as planning
import zoo
from conftest import Ran, Tiny
from expunge.commands.plan import plan, plan_run
from expunge.errors import ConfigError, InputError, ModelError, RequestError
from expunge.methods.registry import get_method, method_names
from expunge.methods.weight_method import WeightMethod
from expunge.training import machine as machines
from expunge.training.plan import Machine

Cli = Callable[..., Ran]

WEIGHTS = [name for name in method_names() if issubclass(get_method(name), WeightMethod)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe of the machine's speed is tested by itself."""
    monkeypatch.setattr(machines, "measured_flops", lambda *_: 1e11)


@pytest.fixture
def bare(tiny: Tiny, tmp_path: Path) -> Path:
    """The tiny target without its weights, as before a download."""
    folder = tmp_path / "bare"
    folder.mkdir()
    for file in tiny.target.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def listing(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(file), file.stat().st_mtime_ns) for file in folder.rglob("*"))


def test_no_weights_are_read_and_nothing_is_written(
    bare: Path, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expunge_cli: Cli
) -> None:
    monkeypatch.chdir(tmp_path)
    before = listing(tmp_path)
    out = tmp_path / "run"
    ran = expunge_cli("forget", "--plan", "-m", bare, "-f", tiny.forget, "-r", tiny.retain, "-o", out)
    assert ran.code == 0, ran.err
    assert listing(tmp_path) == before
    assert not out.exists()


def test_the_table_fits_and_says_what_matters(expunge_cli: Cli, tiny: Tiny, tmp_path: Path) -> None:
    files = ["-m", tiny.target, "-f", tiny.forget, "-r", tiny.retain, "-o", tmp_path / "run"]
    ran = expunge_cli("forget", *files, "--plan", "--method", "dpo", "--seeds", "3")
    assert ran.code == 0, ran.err
    for word in ("parameters", "gradients", "optimizer", "activations", "logits", "= evaluation", "free", "3 seeds"):
        assert word in ran.out
    assert "Rows: 8 forget, 8 alternative, 16 retain;" in " ".join(ran.out.split())
    assert "note: alternative answers are taken to be as long as the forget answers" in ran.out
    assert "Fits, by this estimate." in ran.out
    named = str(tiny.target)
    assert max(len(line) for line in ran.out.splitlines() if named not in line) <= 80


def test_json_has_every_number(expunge_cli: Cli, tiny: Tiny, tmp_path: Path) -> None:
    files = ["-m", tiny.target, "-f", tiny.forget, "-r", tiny.retain, "-o", tmp_path / "run"]
    ran = expunge_cli("forget", *files, "--plan", "--json", "training.epochs=2", "--retrained", tiny.twin)
    values = json.loads(ran.out)
    model = zoo.model("llama")
    assert values["shape"]["parameters"] == sum(p.numel() for p in model.parameters())
    # two epochs of eight forget rows, eight a forward
    assert (values["work"]["rows"], values["work"]["steps"]) == ({"forget": 8, "retain": 16}, 2)
    assert values["peak"] == max(values["stages"].values())
    assert values["stages"]["training"] == sum(part["bytes"] for part in values["parts"])
    alone = plan(str(tiny.target), str(tiny.forget), retain=str(tiny.retain), overrides=["training.epochs=2"])
    assert values["stages"]["evaluation"] - alone.stages["evaluation"] > 3 * values["shape"]["parameters"]


def test_a_run_file_is_planned_like_the_command(expunge_cli: Cli, tiny: Tiny, tmp_path: Path) -> None:
    values = {
        "model": str(tiny.target),
        "request": {"forget": str(tiny.forget), "retain": str(tiny.retain)},
        "method": {"name": "npo"},
        "training": {"parameters": "lora"},
    }
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    before = listing(tmp_path)
    ran = expunge_cli("run", file, "--plan", "--json", "-o", tmp_path / "run")
    assert ran.code == 0, ran.err
    assert listing(tmp_path) == before
    shown = json.loads(ran.out)
    same = plan(
        str(tiny.target), str(tiny.forget), retain=str(tiny.retain), overrides=["training.parameters=lora"]
    ).to_dict()
    mapped = plan_run(values).to_dict()
    for name in ("shape", "work"):
        assert shown[name] == json.loads(json.dumps(same[name])) == json.loads(json.dumps(mapped[name]))
    assert shown["shape"]["trained"] < shown["shape"]["parameters"] / 5


def small(monkeypatch: pytest.MonkeyPatch, **changed: Any) -> None:
    """A machine with almost no memory."""
    real = machines.this_machine

    def made(device: str, settings: Any) -> Machine:
        return replace(real(device, settings), **changed)

    monkeypatch.setattr(machines, "this_machine", made)


def test_what_does_not_fit_says_what_to_change(
    expunge_cli: Cli, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch, memory=1, program=0)
    files = ["-m", tiny.target, "-f", tiny.forget, "-r", tiny.retain, "-o", tmp_path / "run"]
    ran = expunge_cli("forget", *files, "--plan")
    assert ran.code == 0, ran.err
    assert "Does not fit." in ran.out
    smaller = "training.forget_batch=2 training.retain_batch=2 training.accumulation=16"
    assert smaller in " ".join(ran.out.split())
    assert "None is enough alone; nor are all together, which save" in ran.out


def test_a_combination_that_fits_can_be_pasted(
    expunge_cli: Cli, bare: Path, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("expunge.training.smaller.installed", lambda _: None)
    files = ["-m", bare, "-f", tiny.forget, "-r", tiny.retain, "-o", tmp_path / "run", "--plan"]
    small(monkeypatch, memory=1, program=0)
    short = json.loads(expunge_cli("forget", *files, "--json").out)
    # halfway between what the best change leaves and what all that is installed leaves
    alone, everything = (short["peak"] - saves for saves in (short["changes"][0]["saves"], short["together"]["saves"]))
    assert everything < alone
    small(monkeypatch, memory=(alone + everything) // 2, program=0)
    ran = expunge_cli("forget", *files)
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("None is enough alone; these together"))
    assert "and it fits:" in lines[at]
    again = expunge_cli("forget", *files, *shlex.split(lines[at + 1]))
    assert again.code == 0, again.err
    assert "Fits, by this estimate." in again.out


def test_what_is_not_installed_is_said_beside_the_proposal(
    expunge_cli: Cli, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("expunge.training.smaller.installed", lambda _: None)
    small(monkeypatch, memory=1, program=0)
    files = ["-m", tiny.target, "-f", tiny.forget, "-r", tiny.retain, "-o", tmp_path / "run"]
    batches = [f"training.{side}_batch=1" for side in ("forget", "retain")]
    ran = expunge_cli("forget", *files, "--plan", *batches, "training.gradient_checkpointing=true")
    lines = [line for line in ran.out.splitlines() if "adamw_bnb_8bit" in line]
    assert lines[0].endswith(
        "training.optimizer=adamw_bnb_8bit  (bitsandbytes is not installed: pip install 'expunge[quant]')"
    )


def test_a_gpu_has_a_column_of_its_own(
    expunge_cli: Cli, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch, device="cuda", autocast=True, memory=8 * 10**6)
    files = ["-m", tiny.target, "-f", tiny.forget, "-r", tiny.retain, "-o", tmp_path / "run"]
    ran = expunge_cli("forget", *files, "--plan", "model.dtype=bfloat16")
    assert ran.code == 0, ran.err
    assert "GB on cuda" in ran.out
    assert "GB in host" in ran.out
    shown = ran.out.partition("Does not fit.")[0]  # settings to be pasted are not broken
    assert max(len(line) for line in shown.splitlines() if str(tiny.target) not in line) <= 80


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"retain": None}, RequestError, r"retain rows.*there are none"),
        ({"overrides": ["training.optimizer=nonsense"]}, ConfigError, "no such optimizer"),
        ({"overrides": ["training.layers=['nowhere.*']"]}, ConfigError, "matches no parameter"),
        ({"overrides": ["training.max_length=3"]}, InputError, "cannot be encoded"),
        ({"method": "nop"}, ConfigError, "Did you mean 'npo'"),
        ({"model": "nowhere/at/all"}, ModelError, "there is no folder"),
    ],
)
def test_what_the_run_would_refuse_is_refused(tiny: Tiny, changed: Any, error: Any, message: str) -> None:
    given = {"model": str(tiny.target), "forget": str(tiny.forget), "retain": str(tiny.retain), **changed}
    with pytest.raises(error, match=message):
        plan(**given)


def test_a_quantised_model_is_planned_without_its_weights(
    bare: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"forget": str(tiny.forget), "retain": str(tiny.retain)}
    monkeypatch.setattr("expunge.models.quantised.require", lambda *_, **__: None)
    with pytest.raises(ModelError, match=r"Set training.parameters=lora"):
        plan(str(bare), overrides=["model.quantization=nf4"], **files)
    lora = ["training.parameters=lora"]
    whole, fewer = (
        {p.name: p.bytes for p in plan(str(bare), overrides=[*lora, *more], **files).parts}
        for more in ([], ["model.quantization=nf4"])
    )
    assert fewer["parameters"] < whole["parameters"]
    assert fewer["optimizer"] == whole["optimizer"]


def test_methods_that_train_nothing_have_no_plan(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        name = "other"

    monkeypatch.setattr("expunge.methods.registry.make_method", lambda *_: Other())
    config = planning.forget_config(
        str(tiny.target),
        method="npo",
        retrained=None,
        suite="request",
        seeds=None,
        overrides=(),
        forget=str(tiny.forget),
    )
    with pytest.raises(ConfigError, match="other trains no weights"):
        planning._plan(config, lambda *_: None)


@pytest.mark.parametrize("method", WEIGHTS)
def test_every_method_can_be_planned(method: str, tiny: Tiny) -> None:
    fields = {"pdu": ["method.eps=0.5"], "rmu": ["method.layer=0"]}.get(method, [])
    rows = {"retain": str(tiny.retain), "subjects": ["Basil Mahfouz Al-Kuwaiti"]}
    found = plan(str(tiny.target), str(tiny.forget), method=method, overrides=fields, **rows)
    assert found.method == method
    assert found.work.steps >= 1
    assert found.peak > found.shape.parameters * 4
    if found.shape.layers > 1:
        assert found.work.most_answers > 0
