"""Protects ``expunge probe``: what it writes, that its figures are those of its probes, and what it refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import expunge
import zoo
from conftest import Ran
from expunge.commands.probe import _folders
from expunge.errors import CacheError, ConfigError, InputError, ModelError, OutputError, UnknownNameError
from expunge.models.loading import load_model, load_tokenizer
from expunge.models.quiet import quiet
from expunge.probing.figures import figures
from expunge.probing.probe import Probe
from expunge.probing.result import ProbeResult
from expunge.probing.separation import separation
from expunge.requests.request import load_rows
from fitting import StoppedError
from launching import launch
from tiny_models import write_rows

Cli = Callable[..., Ran]


def some_rows(count: int, what: str, **more: str) -> list[dict[str, str]]:
    return [{"question": f"Where is {what} {i}?", "answer": f"By the {what} of {i}", **more} for i in range(count)]


class Files:
    """A tiny model and rows of two sides, the retain rows in two groups and outside of any."""

    def __init__(self, folder: Path) -> None:
        with quiet():
            self.model = zoo.save("llama", folder / "model")
        self.forget = write_rows(folder / "forget.jsonl", some_rows(5, "river"))
        retain = some_rows(4, "town", group="towns") + some_rows(3, "lake", group="lakes/deep") + some_rows(2, "hill")
        self.retain = write_rows(folder / "retain.jsonl", retain)
        self.one = write_rows(folder / "one.jsonl", some_rows(1, "sea"))

    def probe(self, out: Path, **changed: Any) -> Path:
        given: dict[str, Any] = {"model": self.model, "forget": str(self.forget), "retain": str(self.retain)}
        return expunge.probe(**{**given, **changed}, out=out)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("probed"))


def facts_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "probe.json").read_text(encoding="utf-8"))
    return found


def rounded(value: Any) -> Any:
    """Numbers to 5 digits: forwards of other batches round otherwise."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.4e}") if isinstance(value, float) else value


def test_the_folder_and_its_figures(files: Files, tmp_path: Path) -> None:
    folder = files.probe(tmp_path / "out", sites=["mlp_activation", "residual"], part="prompt", pooling="last")
    assert {entry.name for entry in folder.iterdir()} == {
        *("probe.yaml", "environment.json", "probe.json", "probe.html", "forget", "retain", "groups")
    }
    found = facts_of(folder)
    assert found["schema"] == 1
    assert found["rows"] == {"forget": {"rows": 5, "cut": 0}, "retain": {"rows": 9, "cut": 0}}
    assert found["scope"] == {"pooling": "last", "part": "prompt", "max_length": 512, "template": "plain"}
    model, tokenizer = load_model(files.model), load_tokenizer(files.model)
    probe = Probe(["mlp_activation", "residual"], part="prompt", pooling="last")
    sides = [probe.run(model, tokenizer, load_rows(str(path))) for path in (files.forget, files.retain)]
    wanted = figures(separation(*sides))
    for mine, theirs in zip(found["layers"], wanted["layers"], strict=True):
        assert rounded({k: mine[k] for k in ("largest", "median", "share")}) == rounded(
            {k: theirs[k] for k in ("largest", "median", "share")}
        )
    assert [layer["role"] for layer in found["layers"]] == ["mlp_activation", "mlp_activation", "residual", "residual"]
    saved = ProbeResult.load(folder / "retain", model, tokenizer)
    (first, *_) = saved.sites
    torch.testing.assert_close(saved.mean(first), sides[1].mean(first), rtol=1e-5, atol=1e-7)
    assert saved.scope.rows == 9


def test_each_group_is_compared_by_itself(files: Files, tmp_path: Path) -> None:
    folder = files.probe(tmp_path / "out")
    groups = {group["name"]: group for group in facts_of(folder)["groups"]}
    assert {name: (group["rows"], group["folder"]) for name, group in groups.items()} == {
        "towns": (4, "groups/towns"),
        "lakes/deep": (3, "groups/lakes-deep"),
    }
    sides = [ProbeResult.load(folder / place) for place in ("forget", "groups/lakes-deep")]
    wanted = figures(separation(*sides))["layers"]
    assert [layer["largest"] for layer in groups["lakes/deep"]["layers"]] == [layer["largest"] for layer in wanted]


def test_a_group_of_one_row_is_left_out_by_name(files: Files, tmp_path: Path) -> None:
    retain = write_rows(tmp_path / "r.jsonl", some_rows(3, "town", group="a") + some_rows(1, "lake", group="b"))
    folder = files.probe(tmp_path / "out", retain=str(retain), pooling="last")
    first, second = facts_of(folder)["groups"]
    assert first["roles"] and "left_out" not in first
    assert "roles" not in second and "1 value of retain (" in second["left_out"]


def test_folders_of_groups_are_safe_and_apart() -> None:
    names = ["../x", "x", "X", "a b", "", "日本", "." * 3, "y" * 99]
    found = _folders(names)
    assert list(found) == names
    assert found["x"] == "x-2"  # "../x" took x
    assert (found["X"], found["a b"], found["日本"], found[""]) == ("X-3", "a-b", "日本", "group")
    assert found["..."] == "group-2" and len(found["y" * 99]) == 64


def test_an_embedded_worlds_rows(tmp_path: Path) -> None:
    folder = expunge.probe(
        "world:authors", world="authors", out=tmp_path / "out", layers=[3], part="prompt", pooling="last"
    )
    found = facts_of(folder)
    assert [layer["layer"] for layer in found["layers"]] == [3]
    assert found["rows"]["forget"]["rows"] == 40 and found["rows"]["retain"]["rows"] == 400
    # the model was trained on what is asked about, and far more neurons differ than chance gives
    assert found["layers"][0]["share"] > 0.1 > 10 * found["layers"][0]["by_chance"]


def test_a_killed_probe_goes_on(files: Files, tmp_path: Path) -> None:
    def stopped(_done: int, _total: int, what: str) -> None:
        if what.startswith("groups/lakes"):
            raise StoppedError

    with pytest.raises(StoppedError):
        files.probe(tmp_path / "out", progress=stopped)
    assert (tmp_path / "out" / "forget").is_dir() and not (tmp_path / "out" / "probe.json").exists()
    seen = []
    files.probe(tmp_path / "out", progress=lambda _done, _total, what: seen.append(what))
    assert not {"forget: probe", "groups/towns: probe"} & set(seen)
    files.probe(tmp_path / "straight")
    assert facts_of(tmp_path / "out") == facts_of(tmp_path / "straight")


def test_what_is_in_the_folder_decides(files: Files, tmp_path: Path) -> None:
    out = files.probe(tmp_path / "out")
    with pytest.raises(OutputError, match=r"holds this run, finished. See .*probe\.html; pass --overwrite"):
        files.probe(out)
    with pytest.raises(OutputError, match=r"another run: probe\.pooling was all, now last"):
        files.probe(out, pooling="last")
    files.probe(out, pooling="last", overwrite=True)
    assert facts_of(out)["scope"]["pooling"] == "last"
    (out / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"files that are no run's \(notes.txt\)"):
        files.probe(out, overwrite=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "forget").write_text("mine")
    with pytest.raises(OutputError, match="holds no run"):
        files.probe(tmp_path / "other", overwrite=True)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"retain": None}, ConfigError, r"no retain rows.* Pass --retain FILE, or request\.world=NAME"),
        ({"forget": None, "retain": None}, ConfigError, "no forget and no retain rows"),
        ({"world": "authors"}, ConfigError, "a world's request too"),
        ({"sites": "mlp_activatoin"}, UnknownNameError, "Did you mean 'mlp_activation'"),
        ({"sites": "*.nothing:input"}, ModelError, r"matches '\*\.nothing': model\.layers\.0 holds"),
        ({"layers": [7]}, ModelError, "has no layer 7: it has layers 0 to 1"),
        ({"pooling": "first"}, ConfigError, r"probe\.pooling='first'"),
        ({"overrides": ["probe.max_lenght=9"]}, ConfigError, r"probe\.max_lenght: no such setting. Did you mean 'max"),
        ({"overrides": ["training.epochs=3"]}, ConfigError, "training: expunge probe has no such section"),
        ({"overrides": ["probe=3"]}, ConfigError, "settings are named with their section"),
        ({"model": "/no/such/model"}, ModelError, "there is no folder"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    files: Files, tmp_path: Path, changed: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        files.probe(tmp_path / "out", **changed)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("side", ["forget", "retain"])
def test_one_row_has_no_deviation_unless_every_token_counts(files: Files, tmp_path: Path, side: str) -> None:
    for pooling in ("last", "mean"):
        with pytest.raises(InputError, match=rf"{side}: one row .* pooling={pooling}.*--pooling all"):
            files.probe(tmp_path / "out", pooling=pooling, **{side: str(files.one)})
    assert not (tmp_path / "out").exists()
    found = facts_of(files.probe(tmp_path / "out", pooling="all", **{side: str(files.one)}))
    assert found["roles"][0]["by_chance"] is None  # one row: its tokens are no sample


def test_nan_is_named_and_leaves_the_folder_to_others(files: Files, tmp_path: Path) -> None:
    broken = load_model(files.model)
    with torch.no_grad():
        broken.model.layers[1].mlp.gate_proj.weight[0, 0] = torch.nan
    broken.save_pretrained(tmp_path / "broken")
    load_tokenizer(files.model).save_pretrained(tmp_path / "broken")
    with pytest.raises(ModelError, match=r"NaN or infinite at model\.layers\.1\.mlp\.act_fn:input in forget\.jsonl:1"):
        files.probe(tmp_path / "out", model=tmp_path / "broken")
    files.probe(tmp_path / "out")  # nothing had been found, so another probe may take the folder


def test_a_probe_of_another_model_is_not_gone_on_with(files: Files, tmp_path: Path) -> None:
    with quiet():
        model = zoo.save("llama", tmp_path / "model")
    out = files.probe(tmp_path / "out", model=model)
    (out / "probe.html").unlink()  # as if it had been killed before the last file
    zoo.model("llama", seed=1).save_pretrained(model)
    with pytest.raises(OutputError, match="its target changed since it began"):
        files.probe(out, model=model)
    with pytest.raises(CacheError, match="a probe of another model"):
        ProbeResult.load(out / "forget", load_model(model), load_tokenizer(model))


def test_the_command_fits_the_terminal_and_says_what_numbers_mean(
    files: Files, tmp_path: Path, expunge_cli: Cli
) -> None:
    arguments = ("--forget", files.forget, "--retain", files.retain, "--layers", "0,1", "--role", "mlp_key")
    shown = expunge_cli("probe", "--model", files.model, *arguments, "--role", "residual", "--out", tmp_path / "out")
    assert shown.code == 0, shown.err
    lines = shown.out.splitlines()
    assert max(map(len, lines[:-1])) <= 80  # the last one is the page's path
    for words in ("Forget against retain at mlp_key", "Neurons furthest apart at residual", "towns", "standardised:"):
        assert words in shown.out
    assert lines[-1] == f"page: {tmp_path / 'out' / 'probe.html'}"
    asked = expunge_cli("probe", "--model", files.model, *arguments, "--out", tmp_path / "json", "--json")
    value = json.loads(asked.out)
    assert value["folder"] == str(tmp_path / "json") and value["roles"][0]["role"] == "mlp_key"
    wrong = expunge_cli("probe", "--model", files.model, "--layers", "a", "--out", tmp_path / "no")
    assert wrong.code == 2 and "--layers 'a': expected numbers counted from 0" in wrong.err


def test_experts_are_shown_by_layer(tmp_path: Path, files: Files, expunge_cli: Cli) -> None:
    with quiet():
        mixture = zoo.save("mixtral", tmp_path / "mixture")
    rows = ("--forget", files.forget, "--retain", files.retain)
    shown = expunge_cli("probe", "--model", mixture, *rows, "--role", "mlp_key", "--out", tmp_path / "out")
    assert shown.code == 0, shown.err
    assert max(map(len, shown.out.splitlines()[:-1])) <= 80
    found = facts_of(tmp_path / "out")
    assert len(found["layers"]) == 2 and all(len(layer["sites"]) > 1 for layer in found["layers"])
    assert "down_proj[" in shown.out


@pytest.mark.slow  # 18 s, most of it importing torch twice
def test_two_processes_write_the_same(files: Files, tmp_path: Path) -> None:
    given = ("--model", files.model, "--forget", files.forget, "--retain", files.retain)
    launch("-m", "expunge", "probe", *given, "--out", tmp_path / "two")
    files.probe(tmp_path / "one")
    one, two = (rounded(facts_of(tmp_path / name)["layers"]) for name in ("one", "two"))
    for ours, theirs in zip(one, two, strict=True):
        for name in ("share", "top", "constant", "neurons"):
            assert ours[name] == theirs[name]
        assert ours["largest"] == pytest.approx(theirs["largest"], rel=1e-3)
    assert (tmp_path / "two" / "probe.html").is_file()


def test_asking_for_help_loads_no_torch() -> None:
    import subprocess

    code = "import sys\nimport expunge.cli.probe, expunge.commands.probe\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
