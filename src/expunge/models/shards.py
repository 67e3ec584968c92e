"""Safetensors files read piece by piece. Nothing is mapped into memory: only the pieces at hand take room."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from expunge.errors import ModelError

if TYPE_CHECKING:
    import torch

_INDEX = "model.safetensors.index.json"
_FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies: ``size`` bytes of ``file`` from ``begin``; ``dtype`` by safetensors' name."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    begin: int
    size: int

    @property
    def is_float(self) -> bool:
        """Whether its numbers can be calculated with (8-bit floats need scales that lie elsewhere)."""
        return self.dtype in _FLOATS

    def torch_dtype(self) -> torch.dtype:
        """The precision of a tensor that ``is_float``."""
        import torch

        found: torch.dtype = getattr(torch, _FLOATS[self.dtype])
        return found


@dataclass(frozen=True)
class Shard:
    """A safetensors file: its header's bytes (with the eight that say how long it is) and its tensors as they lie."""

    file: Path
    header: bytes
    tensors: tuple[Stored, ...]

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + sum(stored.size for stored in self.tensors)


def read_shard(file: Path) -> Shard:
    """The header of a safetensors file, checked by safetensors itself (offsets without gaps, size of the file)."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt"):
            pass
        with file.open("rb") as opened:
            length = opened.read(8)
            header = opened.read(int.from_bytes(length, "little"))
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{file} cannot be read: {error}. It is cut off or is no safetensors file; save or download it again."
        ) from error
    start = len(length) + len(header)
    tensors = []
    for name, entry in json.loads(header).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            tensors.append(Stored(name, entry["dtype"], tuple(entry["shape"]), file, start + begin, end - begin))
    return Shard(file, length + header, tuple(sorted(tensors, key=lambda stored: stored.begin)))


def checkpoint_shards(folder: Path, *, role: str) -> list[Shard]:
    """The safetensors files of a model folder, by name; ``role`` names the model in errors."""
    whole, index = folder / "model.safetensors", folder / _INDEX
    if whole.is_file():
        return [read_shard(whole)]
    if not index.is_file():
        raise ModelError(
            f"the {role} model in {folder} has no {whole.name} and no {_INDEX}. Weights in other files (.bin, .pt) are "
            "not read: load the model with transformers and save it again with save_pretrained, which writes "
            "safetensors."
        )
    try:
        places: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(places.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} is damaged ({error!r}). Save or download it again.") from error
    odd = [name for name in names if Path(name).name != name]
    if odd:
        raise ModelError(f"{index} names files outside its folder ({', '.join(odd[:5])}). They are not read.")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"the {role} model in {folder} is not complete: {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing. Download or copy the folder again."
        )
    shards = [read_shard(folder / name) for name in names]
    found = {(stored.name, shard.file.name) for shard in shards for stored in shard.tensors}
    wrong = sorted({name for name, _ in found ^ set(places.items())})
    if wrong:
        raise ModelError(
            f"{index} does not list what is in its files ({', '.join(wrong[:5])}{', ..' if len(wrong) > 5 else ''}). "
            "The files belong to different saves; save or download the folder again."
        )
    return shards


class Reader:
    """Reads pieces of tensors; keeps the files it has read from open until the context ends."""

    def __init__(self) -> None:
        self._open: dict[Path, BinaryIO] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open.values():
            file.close()
        self._open.clear()

    def raw(self, stored: Stored, begin: int, size: int) -> torch.Tensor:
        """uint8[size]: bytes of the tensor from its byte ``begin``."""
        import torch

        piece = torch.empty(size, dtype=torch.uint8)
        view = memoryview(piece.numpy())  # type: ignore[arg-type]
        try:
            file = self._open.get(stored.file)
            if file is None:
                file = self._open[stored.file] = stored.file.open("rb", buffering=0)
            file.seek(stored.begin + begin)
            done = 0
            while done < size:
                read = file.readinto(view[done:])  # type: ignore[attr-defined]
                if not read:
                    raise ModelError(f"{stored.file} became shorter while it was read. Leave it alone and try again.")
                done += read
        except OSError as error:
            raise ModelError(f"{stored.file} cannot be read: {error.strerror or error}.") from error
        return piece

    def floats(self, stored: Stored, start: int, count: int) -> torch.Tensor:
        """[count]: elements of a floating-point tensor, flat, from element ``start``, in its own precision."""
        dtype = stored.torch_dtype()
        return self.raw(stored, start * dtype.itemsize, count * dtype.itemsize).view(dtype)

    def whole(self, stored: Stored) -> torch.Tensor:
        """A floating-point tensor in its shape, in its own precision."""
        dtype = stored.torch_dtype()
        return self.floats(stored, 0, stored.size // dtype.itemsize).view(stored.shape)


def version_of(file: Path) -> dict[str, Any]:
    """What changes when a file does; the change time too, since a modification time can be set back."""
    facts = os.stat(file)  # noqa: PTH116 - follows the links of a hub cache
    return {"bytes": facts.st_size, "modified": facts.st_mtime_ns, "changed": facts.st_ctime_ns, "inode": facts.st_ino}
