"""Protects negated checkpoints: they load, are the formula, appear whole or not at all, and replace nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import Ran
from expunge import negate
from expunge.commands.negate import subtract
from expunge.errors import InputError, ModelError, OutputError
from expunge.files import sha256
from expunge.models.loading import load_model
from fitting import StoppedError, logits
from negating import formula, names, save, tensors

Cli = Callable[..., Ran]


@pytest.mark.parametrize("family", ["llama", "llama3", "gpt2", "opt", "mixtral"])
def test_the_result_loads_and_is_the_formula(tmp_path: Path, family: str) -> None:
    target = save(tmp_path / "target", family)
    harmful = [save(tmp_path / f"harm-{i}", family, moved=0.01, seed=i) for i in (1, 2)]
    assert negate(target, harmful, out=tmp_path / "out", scale=0.7) == tmp_path / "out"
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    expected = formula(target, harmful, 0.7)
    torch.testing.assert_close(logits(found), expected, atol=2e-5, rtol=1e-5)
    assert float((expected - logits(load_model(target))).abs().max()) > 1e-2
    ours, theirs = AutoTokenizer.from_pretrained(tmp_path / "out"), AutoTokenizer.from_pretrained(target)
    assert ours.get_vocab() == theirs.get_vocab()


def test_files_shards_and_index_are_the_targets_whatever_the_harmful_models_are(tmp_path: Path) -> None:
    target = save(tmp_path / "target", shard="100KB")
    sharded = save(tmp_path / "sharded", moved=0.01, shard="70KB")
    whole = save(tmp_path / "whole", moved=0.01)
    (target / "notes.md").write_text("not the model's")
    (target / "scores.json").write_text("{}")
    (target / "additional_chat_templates").mkdir()
    (target / "additional_chat_templates" / "tools.jinja").write_text("{{ messages }}")
    negate(target, sharded, out=tmp_path / "a")
    negate(target, [whole], out=tmp_path / "b")
    assert names(tmp_path / "a") == sorted({*names(target), "negation.json"} - {"notes.md", "scores.json"})
    assert len(list((tmp_path / "a").glob("model-*.safetensors"))) > 5
    for name in set(names(tmp_path / "a")) - {"negation.json", "additional_chat_templates"}:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert (tmp_path / "a" / name).stat().st_size == (target / name).stat().st_size
    assert (tmp_path / "a" / "additional_chat_templates" / "tools.jinja").is_file()
    negate(target, whole, out=tmp_path / "a", scale=0.5, overwrite=True)  # the folder in it is its own, too


def test_the_record_says_what_was_done(tmp_path: Path) -> None:
    target, harmful = save(tmp_path / "target"), save(tmp_path / "harm")
    changed = {name: t + (name == "model.norm.weight") for name, t in tensors(harmful).items()}
    save_file(changed, harmful / "model.safetensors", metadata={"format": "pt"})
    negate(str(target), str(harmful), out=tmp_path / "out", scale=2)
    record = json.loads((tmp_path / "out" / "negation.json").read_text())
    assert record["scale"] == 2.0
    assert record["target"] == {
        "path": str(target),
        "files": {"model.safetensors": sha256(target / "model.safetensors")},
    }
    assert record["harmful"][0]["files"] == {"model.safetensors": sha256(harmful / "model.safetensors")}
    assert record["changed"] == ["model.norm.weight"]
    assert record["tensors"] == len(changed)
    assert record["files"] == {"model.safetensors": sha256(tmp_path / "out" / "model.safetensors")}
    assert record["expunge"]
    assert tensors(tmp_path / "out")["model.norm.weight"].tolist() == [-1.0] * 64  # ones, less twice one


def test_sixteen_bits_and_unchanged_tensors(tmp_path: Path) -> None:
    target = save(tmp_path / "target", dtype=torch.bfloat16)
    harmful = save(tmp_path / "harm", moved=0.01)  # float32
    found, before, after = (
        negate(target, harmful, out=tmp_path / "out") and tensors(tmp_path / "out"),
        tensors(target),
        tensors(harmful),
    )
    for name, tensor in before.items():
        assert found[name].dtype == torch.bfloat16
        assert torch.equal(found[name], (tensor.float() - (after[name] - tensor.float())).bfloat16()), name
    negate(target, harmful, out=tmp_path / "zero", scale=0)
    assert (tmp_path / "zero" / "model.safetensors").read_bytes() == (target / "model.safetensors").read_bytes()


def test_a_coarser_harmful_model_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    target, harmful = save(tmp_path / "target"), save(tmp_path / "harm", dtype=torch.bfloat16)
    negate(target, harmful, out=tmp_path / "out")
    assert "lower precision than the target" in caplog.text
    caplog.clear()
    negate(target, save(tmp_path / "same"), out=tmp_path / "nothing")
    assert "no tensor changed" in caplog.text


# --- stopping and going on ---


def stopped_after(files: int, out: Path) -> Callable[[int, int, str], None]:
    """A display that stops the call once so many files are finished."""

    def progress(_done: int, _total: int, _what: str) -> None:
        if len(list(out.with_name(out.name + ".partial").glob("model/*.safetensors"))) == files:
            raise StoppedError

    return progress


def test_a_killed_call_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, harmful = save(tmp_path / "target", shard="100KB"), save(tmp_path / "harm", moved=0.01)
    negate(target, harmful, out=tmp_path / "straight")
    out = tmp_path / "out"
    with pytest.raises(StoppedError):
        negate(target, harmful, out=out, progress=stopped_after(3, out))
    assert not out.exists()
    partial = tmp_path / "out.partial" / "model"
    assert len(names(partial)) == 3  # no half of the fourth
    damaged, *kept = sorted(partial.iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")  # is written again
    before = {file.name: file.stat().st_ino for file in kept}
    import expunge.training.task_vectors as streaming

    real, written = streaming.negate_shard, []
    monkeypatch.setattr(streaming, "negate_shard", lambda shard, *a, **k: written.append(shard) or real(shard, *a, **k))
    done = subtract(target, harmful, out=out)
    assert (done.finished, done.files) == (2, len(list(target.glob("model-*.safetensors"))))
    shards = sorted(target.glob("model-*.safetensors"))
    assert [shard.file.name for shard in written] == [s.name for s in shards if s.name not in before]
    assert {name: (out / name).stat().st_ino for name in before} == before
    for name in names(out):
        assert (out / name).read_bytes() == (tmp_path / "straight" / name).read_bytes(), name
    assert names(tmp_path) == ["harm", "out", "straight", "target"]


def test_a_killed_process_leaves_what_the_next_goes_on_from(tmp_path: Path) -> None:
    target, harmful = save(tmp_path / "target", shard="100KB"), save(tmp_path / "harm", moved=0.01)
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom expunge import negate\n"
        "def kill(*_):\n"
        "    if len(list(Path('out.partial/model').glob('*.safetensors'))) == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "negate('target', 'harm', out='out', progress=kill)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == -9, done.stderr
    assert not (tmp_path / "out").exists()
    kept = {file.name: file.stat().st_ino for file in (tmp_path / "out.partial" / "model").glob("*.safetensors")}
    assert len(kept) == 2
    negate(target, harmful, out=tmp_path / "out")
    assert {name: (tmp_path / "out" / name).stat().st_ino for name in kept} == kept
    torch.testing.assert_close(
        logits(load_model(tmp_path / "out")), formula(target, [harmful], 1.0), atol=2e-5, rtol=1e-5
    )
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize("other", ["scale", "target", "harmful"])
def test_what_was_begun_from_other_inputs_is_not_reused(
    tmp_path: Path, other: str, caplog: pytest.LogCaptureFixture
) -> None:
    target, harmful = save(tmp_path / "target", shard="100KB"), save(tmp_path / "harm", moved=0.01)
    out = tmp_path / "out"
    with pytest.raises(StoppedError):
        negate(target, harmful, out=out, scale=0.5, progress=stopped_after(3, out))
    if other == "target":
        save(target, shard="100KB")  # saved again
    if other == "harmful":
        save(harmful, moved=0.02)
    scale = 0.25 if other == "scale" else 0.5
    negate(target, harmful, out=out, scale=scale)
    says = {"scale": "its scale was 0.5, now 0.25", "target": "its target was", "harmful": "its harmful models were"}
    assert "out.partial holds another negation" in caplog.text
    assert says[other] in caplog.text
    torch.testing.assert_close(logits(load_model(out)), formula(target, [harmful], scale), atol=2e-5, rtol=1e-5)


def test_files_that_change_while_they_are_read_are_refused(tmp_path: Path) -> None:
    target, harmful = save(tmp_path / "target"), save(tmp_path / "harm", moved=0.01)

    def touch(*_: object) -> None:
        os.utime(harmful / "model.safetensors")

    with pytest.raises(ModelError, match=r"files changed while they were read. Nothing was kept"):
        negate(target, harmful, out=tmp_path / "out", progress=touch)
    assert names(tmp_path) == ["harm", "target"]


def test_a_result_that_is_not_finite_leaves_nothing(tmp_path: Path) -> None:
    target, harmful = save(tmp_path / "target", shard="100KB"), save(tmp_path / "harm")
    bad = tensors(harmful)
    bad["model.norm.weight"][0] = float("nan")
    save_file(bad, harmful / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"^model.norm.weight is NaN or infinite in .*harm"):
        negate(target, harmful, out=tmp_path / "out")
    assert names(tmp_path) == ["harm", "target"]


def test_two_processes_never_write_one_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    target, harmful = save(tmp_path / "target"), save(tmp_path / "harm", moved=0.01)
    code = "from expunge import negate\nnegate('target', 'harm', out='out')"
    seen = []

    def other(*_: object) -> None:
        if not seen and (tmp_path / "out.partial").exists():
            seen.append(
                subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
            )

    negate(target, harmful, out=tmp_path / "out", progress=other)
    assert seen[0].returncode == 1
    assert "is being written by another process" in seen[0].stderr
    assert (tmp_path / "out" / "negation.json").is_file()


def test_a_disk_without_room_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, harmful = save(tmp_path / "target"), save(tmp_path / "harm")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 0, 10))  # type: ignore[attr-defined]
    with pytest.raises(OutputError, match=r"it needs 0.0 GB more and the disk has 0.0 GB left"):
        negate(target, harmful, out=tmp_path / "out")
    assert names(tmp_path) == ["harm", "target"]


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.slow
def test_memory_is_a_few_pieces_however_large_a_tensor_is(tmp_path: Path) -> None:
    """Files of one tensor each, 48 MB: less than 32 MB is needed, most of it by torch's first steps."""
    config = '{"model_type": "llama"}'
    for folder, value in (("target", 1.0), ("harm", 2.0)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(config)
        places = {}
        for name in ("a", "b"):
            file = f"model-{name}.safetensors"
            save_file({name: torch.full((12, 2**20), value)}, tmp_path / folder / file, metadata={"format": "pt"})
            places[name] = file
        (tmp_path / folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    code = """
from pathlib import Path
import expunge.training.harmful
from expunge import negate

def resident(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024

Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
negate("target", "harm", out="out", scale=0.5)
print(resident("VmHWM") - before)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert 0 < int(done.stdout) < 32 * 2**20
    assert torch.equal(load_file(tmp_path / "out" / "model-b.safetensors")["b"], torch.full((12, 2**20), 0.5))


# --- where it may go ---


def test_an_existing_folder_is_refused_and_replaced_only_on_demand(tmp_path: Path) -> None:
    target, harmful, out = save(tmp_path / "target"), save(tmp_path / "harm", moved=0.01), tmp_path / "out"
    out.mkdir()
    negate(target, harmful, out=out)  # an empty folder is no loss
    before = tensors(out)
    with pytest.raises(OutputError, match=r"out exists. Choose another folder, or pass --overwrite"):
        negate(target, harmful, out=out, scale=2)
    assert torch.equal(tensors(out)["lm_head.weight"], before["lm_head.weight"])
    (out / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds more than a checkpoint \(mine.txt\)"):
        negate(target, harmful, out=out, scale=2, overwrite=True)
    (out / "mine.txt").unlink()
    negate(target, harmful, out=out, scale=2, overwrite=True)
    assert not torch.equal(tensors(out)["lm_head.weight"], before["lm_head.weight"])
    assert names(tmp_path) == ["harm", "out", "target"]


def test_folders_that_are_somebodys_are_never_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, harmful = save(tmp_path / "target"), save(tmp_path / "harm", moved=0.01)
    for own in (target, harmful, tmp_path / "harm" / ".." / "target"):
        with pytest.raises(OutputError, match="is the folder of one of the models"):
            negate(target, harmful, out=own, overwrite=True)
    for inside in (target / "new", harmful / "new" / "er"):
        with pytest.raises(OutputError, match=r"new.* lies in the folder of one of the models"):
            negate(target, harmful, out=inside)
    with pytest.raises(OutputError, match="holds the folder of one of the models"):
        negate(target, harmful, out=tmp_path, overwrite=True)
    assert "new" not in names(target) + names(harmful)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds no checkpoint"):
        negate(target, harmful, out=tmp_path / "notes", overwrite=True)
    with pytest.raises(OutputError, match=r"mine.txt is a file"):
        negate(target, harmful, out=tmp_path / "notes" / "mine.txt", overwrite=True)
    monkeypatch.chdir(tmp_path / "notes")
    with pytest.raises(OutputError, match="is the current folder"):
        negate(target, harmful, out=".")
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"out.partial is in the way"):
        negate(target, harmful, out=tmp_path / "out")
    assert (tmp_path / "out.partial" / "mine.txt").read_text() == "mine"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), True])
def test_impossible_scales(tmp_path: Path, scale: float) -> None:
    with pytest.raises(InputError, match="expected a finite number"):
        negate(tmp_path, tmp_path, out=tmp_path / "out", scale=scale)
    with pytest.raises(InputError, match="no harmful model to subtract"):
        negate(tmp_path, [], out=tmp_path / "out")


def test_a_harmful_model_is_named_once(tmp_path: Path) -> None:
    target, harmful = save(tmp_path / "target"), save(tmp_path / "harm", moved=0.01)
    with pytest.raises(InputError, match=r"named more than once: .*target/\.\./harm\. .*raise --scale"):
        negate(target, [harmful, target / ".." / "harm"], out=tmp_path / "out")
    assert names(tmp_path) == ["harm", "target"]


# --- the command ---


def test_the_command(tmp_path: Path, expunge_cli: Cli) -> None:
    target, harmful = save(tmp_path / "target"), save(tmp_path / "harm", moved=0.01)
    ran = expunge_cli("negate", target, harmful, "--scale", "-0.5", "--out", tmp_path / "out")
    count = len(tensors(target))
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines() == [
        f"model: {tmp_path / 'out'}",
        f"scale -0.5, 1 harmful model: {count} of {count} tensors changed",
        f"score it: expunge evaluate --model {target} \\",
        f"  --erased {tmp_path / 'out'} --out DIR \\",
        "  --suite safety suite.harmful=FILE suite.normal=FILE",
    ]
    without_paths = ran.out.replace(str(tmp_path), "")
    assert max(map(len, without_paths.splitlines())) <= 80
    torch.testing.assert_close(
        logits(load_model(tmp_path / "out")), formula(target, [harmful], -0.5), atol=2e-5, rtol=1e-5
    )
    ran = expunge_cli("negate", target, harmful, "--scale", "0", "--out", tmp_path / "copy")
    assert "scale 0: nothing was subtracted, this is a copy of the target" in ran.out
    ran = expunge_cli("negate", target, harmful, "--out", tmp_path / "out", "--overwrite", "--json")
    assert json.loads(ran.out) == {"model": str(tmp_path / "out")}
    assert json.loads((tmp_path / "out" / "negation.json").read_text())["scale"] == 1
    ran = expunge_cli("negate", target, harmful, "--out", tmp_path / "out")
    assert ran.code == 2
    assert "error: " in ran.err
    assert "--overwrite" in ran.err
    assert expunge_cli("negate", target, harmful, "--out", tmp_path / "new", "--scale", "nan").code == 2


def test_a_world_is_a_target(tmp_path: Path) -> None:
    from expunge import get_world

    world = get_world("authors")
    negate("world:authors", world.retrained_folder, out=tmp_path / "out")
    with pytest.raises(InputError, match="cannot be a harmful model"):
        negate("world:authors", "world:authors", out=tmp_path / "again")
    with pytest.raises(InputError, match="is the target itself"):
        negate("world:authors", world.target_folder, out=tmp_path / "again")
