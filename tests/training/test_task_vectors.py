"""Protects the arithmetic of task vectors, by hand, and that a file written in pieces is the file written at once."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from expunge.errors import ModelError
from expunge.models.shards import Reader, Stored, checkpoint_shards, read_shard
from expunge.training.task_vectors import Factors, LowRank, NewValues, negate_shard, negated, task_vector

INF, NAN = float("inf"), float("nan")


def values_of(folder: Path, name: str, tensors: dict[str, torch.Tensor]) -> NewValues:
    """A harmful model that holds ``tensors``."""
    save_file(tensors, folder / f"{name}.safetensors", metadata={"format": "pt"})
    return NewValues(name, {s.name: s for s in read_shard(folder / f"{name}.safetensors").tensors})


def run(folder: Path, target: dict[str, torch.Tensor], *vectors: Any, scale: float = 1.0, piece: int = 2**18) -> Any:
    """The tensors of the file that is written, loaded by safetensors, and what is said of it."""
    save_file(target, folder / "target.safetensors", metadata={"format": "pt"})
    shard = read_shard(folder / "target.safetensors")
    written = negate_shard(shard, vectors, scale, folder / "out.safetensors", piece=piece)
    return load_file(folder / "out.safetensors"), written


def test_by_hand() -> None:
    target = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    first = torch.tensor([[2.0, 2.0], [1.0, 4.5]])
    second = torch.tensor([[1.0, 0.0], [3.0, 8.0]])
    one, two = task_vector(first, target), task_vector(second, target)
    assert one.tolist() == [[1, 0], [-2, 0.5]]
    assert two.tolist() == [[0, -2], [0, 4]]
    # 1 - .5 * 1, 2, 3 - .5 * -2, 4 - .5 * .5
    assert negated(target, one, 0.5).tolist() == [[0.5, 2], [4, 3.75]]
    # together [[1, -2], [-2, 4.5]]; twice that is taken away
    assert negated(target, one + two, 2.0).tolist() == [[-1, 6], [7, -5]]
    # a negative scale adds
    assert negated(target, one, -1.0).tolist() == first.tolist()


def test_sixteen_bits_are_rounded_once() -> None:
    # bfloat16 has 8 bits: between 1 and 2 its steps are 2^-7. The vector is 1.015625 - 1 = 2^-6, a quarter of it 2^-8:
    # 1 - 2^-8 is a bfloat16 below 1, where steps are 2^-8. Three quarters: 1 - 3 * 2^-8, too.
    target = torch.tensor([1.0], dtype=torch.bfloat16)
    harmful = torch.tensor([1 + 2**-6], dtype=torch.bfloat16)
    vector = task_vector(harmful, target)
    assert vector.dtype == torch.float32
    assert vector.item() == 2**-6
    assert negated(target, vector, 0.75).item() == 1 - 3 * 2**-8
    # Two vectors of 2^-9 each (held in float32): each alone would round away (1 + 2^-9 is 1), together 1 + 2^-8 is half
    # a step and rounds to even, 1; three of them, 1 + 3 * 2^-9, to 1 + 2^-7.
    fine = task_vector(torch.tensor([1 + 2**-9]), target)
    assert negated(target, fine, -1.0).item() == 1
    assert negated(target, fine * 2, -1.0).item() == 1
    assert negated(target, fine * 3, -1.0).item() == 1 + 2**-7
    # float64 stays float64: 2^-40 would vanish in float32
    wide = torch.tensor([1.0], dtype=torch.float64)
    assert negated(wide, task_vector(torch.tensor([1 + 2**-40], dtype=torch.float64), wide), 1.0).item() == 1 - 2**-40


def test_what_is_equal_keeps_its_bits() -> None:
    target = torch.tensor([-0.0, INF, -INF, 1.5])
    vector = task_vector(target.clone(), target)
    assert vector.tolist() == [0, 0, 0, 0]
    for scale in (1.0, -1.0):
        assert torch.equal(negated(target, vector, scale).view(torch.int32), target.view(torch.int32))


def test_what_is_not_finite_is_an_error() -> None:
    one = torch.tensor([1.0])
    for harmful in (INF, NAN):
        with pytest.raises(FloatingPointError):
            negated(one, task_vector(torch.tensor([harmful]), one), 1.0)
    with pytest.raises(FloatingPointError):  # float16 ends at 65504
        negated(torch.tensor([60000.0], dtype=torch.float16), torch.tensor([-10000.0]), 1.0)
    with pytest.raises(FloatingPointError):
        negated(one, one, 1e300)


@pytest.mark.parametrize("piece", [1, 3, 2**18])
def test_a_file_is_written_piece_by_piece(tmp_path: Path, piece: int) -> None:
    generator = torch.Generator().manual_seed(0)
    target = {
        "plain": torch.randn(5, 7, generator=generator),
        "half": torch.randn(4, 3, generator=generator).bfloat16(),
        "scalar": torch.tensor(2.0),
        "empty": torch.zeros(0, 4),
        "counts": torch.arange(6),
        "mask": torch.tensor([True, False]),
        "untouched": torch.randn(9, generator=generator).half(),
    }
    harmful = {name: t + 1 if t.is_floating_point() else t for name, t in target.items() if name != "untouched"}
    found, written = run(tmp_path, target, values_of(tmp_path, "harmful", harmful), scale=0.5, piece=piece)
    assert found.keys() == target.keys()
    for name, tensor in target.items():
        step = 0.5 * (harmful[name].float() - tensor.float()) if name in harmful else 0.0
        expected = (tensor.float() - step).to(tensor.dtype)
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], expected), name
    assert sorted(written.changed) == ["half", "plain", "scalar"]
    data = (tmp_path / "out.safetensors").read_bytes()
    assert written.sha256 == hashlib.sha256(data).hexdigest()
    # header, order and place of every tensor are the target's
    before = (tmp_path / "target.safetensors").read_bytes()
    length = 8 + int.from_bytes(before[:8], "little")
    assert data[:length] == before[:length]
    assert len(data) == len(before)
    with safe_open(tmp_path / "out.safetensors", framework="pt") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_several_harmful_models_add_up(tmp_path: Path) -> None:
    target = {"w": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b": torch.tensor([1.0])}
    first = values_of(tmp_path, "first", {"w": target["w"] + torch.tensor([[1.0, 0.0], [0.0, 0.0]]), "b": target["b"]})
    second = values_of(tmp_path, "second", {"w": target["w"] + torch.tensor([[0.5, 0.0], [0.0, 2.0]])})
    found, written = run(tmp_path, target, first, second, scale=2.0)
    assert found["w"].tolist() == [[-2, 2], [3, 0]]  # 1 - 2 * 1.5, 4 - 2 * 2
    assert found["b"].tolist() == [1]
    assert written.changed == ("w",)


def test_scale_zero_is_the_target_whatever_the_harmful_model_holds(tmp_path: Path) -> None:
    target = {"w": torch.tensor([1.0, -0.0]), "n": torch.tensor([1])}
    harmful = values_of(tmp_path, "harmful", {"w": torch.tensor([INF, NAN]), "n": torch.tensor([2])})
    _, written = run(tmp_path, target, harmful, scale=0.0)
    assert (tmp_path / "out.safetensors").read_bytes() == (tmp_path / "target.safetensors").read_bytes()
    assert written.changed == ()


@pytest.mark.parametrize("rows", [(6, 4), (4, 4)])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("piece", [1, 3, 7, 2**18])
def test_a_low_rank_update(tmp_path: Path, rows: tuple[int, int], transposed: bool, piece: int) -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(rows[0], 2, generator=generator), torch.randn(2, rows[1], generator=generator)
    stored = {"l": left.t(), "r": right.t()} if transposed else {"l": left, "r": right}
    save_file({name: t.contiguous() for name, t in stored.items()}, tmp_path / "lora.safetensors")
    l_place, r_place = read_shard(tmp_path / "lora.safetensors").tensors
    target = {"w": torch.randn(*rows, generator=generator), "other": torch.ones(3)}
    vector = LowRank("lora", {"w": Factors(l_place, r_place, transposed, 0.5)}, ())
    found, _ = run(tmp_path, target, vector, scale=3.0, piece=piece)
    torch.testing.assert_close(found["w"], target["w"] - 3 * 0.5 * left @ right, atol=1e-6, rtol=1e-6)
    assert torch.equal(found["other"], target["other"])


def test_the_rounding_of_a_target_is_no_part_of_what_was_learned(tmp_path: Path) -> None:
    # The erasure was made of 1 + 2^-9 seen as bfloat16, that is 1; it learned 1 -> 1.5: a vector of .5, not .5 - 2^-9
    target = {"w": torch.tensor([1 + 2**-9, 1 + 2**-9])}
    plain = values_of(tmp_path, "new", {"w": torch.tensor([1.5, 1.0], dtype=torch.bfloat16)})
    seen = NewValues("new", plain.places, torch.bfloat16)
    found, _ = run(tmp_path, target, seen)
    assert found["w"].tolist() == [0.5 + 2**-9, 1 + 2**-9]
    assert run(tmp_path, target, plain)[0]["w"].tolist() == [0.5 + 2**-8, 1 + 2**-8]


@pytest.mark.parametrize(("value", "says"), [(NAN, "is NaN or infinite in harmful"), (1e38, "would be NaN")])
def test_a_result_that_is_not_finite_names_its_tensor(tmp_path: Path, value: float, says: str) -> None:
    target = {"fine": torch.ones(2), "w": torch.tensor([1.0, -2e38])}
    # 1e38 + 2e38 is a float32, -2e38 - 3e38 is none
    harmful = values_of(tmp_path, "harmful", {"fine": torch.ones(2), "w": torch.tensor([1.0, value])})
    with pytest.raises(ModelError, match=f"^w {says}"):
        run(tmp_path, target, harmful)


def test_integers_that_differ_are_refused(tmp_path: Path) -> None:
    harmful = values_of(tmp_path, "harmful", {"n": torch.tensor([1, 3])})
    with pytest.raises(ModelError, match=r"^n holds I64 numbers that differ between the target and harmful"):
        run(tmp_path, {"n": torch.tensor([1, 2])}, harmful)


# --- the files ---


def test_damaged_files_are_named(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(100)}, file)
    whole = file.read_bytes()
    for damaged in (b"", b"what", whole[:-1], whole[:20], whole + b"0", b"\xff" * 8 + whole[8:]):
        file.write_bytes(damaged)
        with pytest.raises(ModelError, match=r"model.safetensors cannot be read.*save or download it again"):
            read_shard(file)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(100)}, file)
    (stored,) = read_shard(file).tensors
    file.write_bytes(file.read_bytes()[:-8])
    with Reader() as reader, pytest.raises(ModelError, match="became shorter while it was read"):
        reader.whole(stored)


def test_folders_that_are_no_safetensors_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match=r"has no model.safetensors.*not read: load .* save_pretrained"):
        checkpoint_shards(tmp_path, role="target")
    index = tmp_path / "model.safetensors.index.json"
    for text in ("{", "[]", "{}", '{"weight_map": []}'):
        index.write_text(text)
        with pytest.raises(ModelError, match=r"index.json is damaged"):
            checkpoint_shards(tmp_path, role="target")
    index.write_text(json.dumps({"weight_map": {"w": "../model.safetensors"}}))
    with pytest.raises(ModelError, match="names files outside its folder"):
        checkpoint_shards(tmp_path, role="target")
    index.write_text(json.dumps({"weight_map": {"w": "a.safetensors", "v": "b.safetensors"}}))
    with pytest.raises(ModelError, match=r"not complete: a.safetensors, b.safetensors are missing"):
        checkpoint_shards(tmp_path, role="target")
    for name in ("a", "b"):
        save_file({"w": torch.ones(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(ModelError, match=r"does not list what is in its files \(v, w\)"):
        checkpoint_shards(tmp_path, role="target")


def test_only_floats_that_stand_for_themselves_are_calculated_with() -> None:
    made = [Stored("w", dtype, (1,), Path("x"), 0, 1).is_float for dtype in ("F64", "F32", "F16", "BF16")]
    assert all(made)
    assert not any(Stored("w", d, (1,), Path("x"), 0, 1).is_float for d in ("I8", "U8", "BOOL", "F8_E4M3", "I64"))
