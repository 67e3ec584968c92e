"""Checkpoints of a sharded run: every process writes its own part, and any number of processes can go on from them.

``shard-00000-of-00002.safetensors`` and so on hold rows of the trained parameters and of the optimizer's state, with
the place of these rows in the header. No pickle is written or read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from expunge.distributed import process, processes
from expunge.errors import TrainingError
from expunge.training.sharding import own_part

_FILES = "shard-*-of-*.safetensors"
_VALUE = "value"


def save_shard(folder: Path, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    """Write this process's part of ``parameters`` and of what ``optimizer`` keeps about them.

    Raises:
        TrainingError: the optimizer keeps something that is neither a tensor nor a number.
    """
    tensors: dict[str, Tensor] = {}
    places: dict[str, Any] = {}
    for name, parameter in parameters.items():
        for kind, value in {_VALUE: parameter, **optimizer.state.get(parameter, {})}.items():
            key = f"{kind}:{name}"
            if isinstance(value, Tensor):
                part = own_part(value).contiguous()
                if value.ndim:
                    begin, end = _rows(value, len(part))
                    places[key] = {"rows": [begin, end], "shape": list(value.shape)}
                elif process():
                    continue  # one number, the same in every process
                tensors[key] = part
            elif isinstance(value, bool | int | float):
                places[key] = {"number": value}
            else:
                raise TrainingError(
                    f"{type(optimizer).__name__} keeps a {type(value).__name__} ({kind}), which a sharded checkpoint "
                    "cannot hold. Use another training.optimizer."
                )
    folder.mkdir(parents=True, exist_ok=True)
    name = f"shard-{process():05d}-of-{processes():05d}.safetensors"
    save_file(tensors, folder / name, {"places": json.dumps(places)})


def load_shards(folder: Path, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    """Fill ``parameters`` and the optimizer's state from the shards in ``folder``, however many processes wrote them.

    Raises:
        TrainingError: a shard is missing or damaged, or they hold other parameters.
    """
    with ExitStack() as stack:
        pieces = _Pieces(folder, stack)
        if pieces.names() != set(parameters):
            raise TrainingError(f"{folder} holds other parameters than this run trains. Delete it.")
        for name, parameter in parameters.items():
            state: dict[str, Any] = {}
            for kind in pieces.kinds[name]:
                value = pieces.value(f"{kind}:{name}", parameter)
                if kind == _VALUE:
                    with torch.no_grad():
                        own_part(parameter).copy_(value if not hasattr(value, "to_local") else value.to_local())
                else:
                    state[kind] = value
            if state:
                optimizer.state[parameter] = state


class _Pieces:
    """The shards of a checkpoint, open for reading."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        files = sorted(folder.glob(_FILES))
        if not files or len(files) != int(files[0].stem.rpartition("-")[2]):
            raise TrainingError(f"{folder} has {len(files)} shards, and some are missing. Delete it.")
        self.shards: list[tuple[Any, dict[str, Any]]] = []
        for path in files:
            try:
                file = stack.enter_context(safe_open(path, framework="pt"))
                self.shards.append((file, json.loads(file.metadata()["places"])))
            except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError) as error:
                raise TrainingError(f"{path} is damaged. Delete {folder}.") from error
        self.kinds: dict[str, list[str]] = {}
        for key in self._keys():
            kind, _, name = key.partition(":")
            self.kinds.setdefault(name, []).append(kind)

    def names(self) -> set[str]:
        return {name for name, kinds in self.kinds.items() if _VALUE in kinds}

    def value(self, key: str, like: nn.Parameter) -> Any:
        """What is kept under ``key``: this process's part of it where it is spread like the parameter ``like``."""
        found = [(file, places[key]) for file, places in self.shards if key in places]
        if not found:
            return self.shards[0][0].get_tensor(key).to(like.device)
        if "number" in found[0][1]:
            return found[0][1]["number"]
        shape = torch.Size(found[0][1]["shape"])
        if shape != like.shape:
            raise TrainingError(
                f"{self.folder} holds {key} in shape {tuple(shape)}, not {tuple(like.shape)}. Delete it."
            )
        part = own_part(like)
        begin, end = _rows(like, len(part))
        read = []
        for file, place in found:
            first, last = place["rows"]
            low, high = max(begin, first), min(end, last)
            if low < high:
                read.append(file.get_slice(key)[low - first : high - first])
        rows = torch.cat(read) if read else part[:0].cpu()
        if len(rows) != end - begin:
            raise TrainingError(f"{self.folder} lacks rows {begin} to {end} of {key}. Delete it.")
        return _spread_like(rows.to(part.device), like)

    def _keys(self) -> Iterator[str]:
        seen: dict[str, None] = {}
        for file, places in self.shards:
            seen |= dict.fromkeys([*file.keys(), *places])
        yield from seen


def _rows(value: Tensor, held: int) -> tuple[int, int]:
    """Which rows of ``value`` this process holds: all, or one of the pieces that ``torch.chunk`` makes."""
    if not hasattr(value, "to_local"):
        return 0, len(value)
    size = -(-len(value) // processes())
    begin = min(process() * size, len(value))
    if held != min(size, len(value) - begin):
        raise TrainingError(f"this release of torch splits {tuple(value.shape)} otherwise than expected.")
    return begin, begin + held


def _spread_like(part: Tensor, like: Tensor) -> Tensor:
    if not hasattr(like, "to_local"):
        return part
    from torch.distributed.tensor import DTensor

    given: Any = like
    return DTensor.from_local(
        part, given.device_mesh, given.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
