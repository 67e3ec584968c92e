"""Which model is this? A fingerprint of configuration, tokenizer and weights that survives a change of precision."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_VOLATILE = {
    "_name_or_path",
    "architectures",
    "attn_implementation",
    "dtype",
    "quantization_config",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}
_PROBE = " The author's e\u0301tudes, unbelievably:\n\tWHERE 12345 were\u2026  sold in S\u00e3o Paulo \U0001f642?"


@dataclass(frozen=True)
class Fingerprint:
    """Hex digests of a model's parts. ``basis`` says what the weights digest was taken from: the ``source`` files (the
    same whatever precision they are loaded in) or, for a model that came from no files, the tensors in ``memory``.
    ``dtype`` and ``quantization`` are recorded and take no part in identity."""

    config: str
    tokenizer: str
    weights: str
    basis: Literal["source", "memory"]
    dtype: str
    quantization: str | None = None
    source: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def differences(self, other: Fingerprint) -> list[str]:
        """Which parts are not the same, in words; empty for the same model."""
        return [part for part in ("config", "tokenizer", "weights") if getattr(self, part) != getattr(other, part)]


def fingerprint(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, *, tokenizer_digest_as: str = ""
) -> Fingerprint:
    """The fingerprint of a loaded model and its tokenizer (``tokenizer_digest_as`` stands in where there is none).

    Weights are hashed from the safetensors files they were loaded from where these can be found, else from memory. Only
    raw bytes under sorted tensor names count, so that neither sharding nor file order matters.
    """
    source = str(getattr(model.config, "_name_or_path", "") or "")
    files = source_files(getattr(model, SOURCE_FOLDER, source))
    # a tied head may or may not be stored beside the embedding it is
    ties = frozenset(getattr(model, "all_tied_weights_keys", None) or ())
    if files:
        weights, basis = _files_digest(tuple((f.resolve(), *_version(f)) for f in files), ties), "source"
    else:
        state = {name: tensor for name, tensor in model.state_dict().items() if name not in ties}
        weights, basis = memory_digest(state), "memory"
    quantization = getattr(model.config, "quantization_config", None)
    return Fingerprint(
        config=_json_digest({k: v for k, v in model.config.to_diff_dict().items() if k not in _VOLATILE}),
        tokenizer=tokenizer_digest(tokenizer) if tokenizer is not None else tokenizer_digest_as,
        weights=weights,
        basis=basis,  # type: ignore[arg-type]
        dtype=str(model.dtype).removeprefix("torch."),
        quantization=quantization_name(quantization),
        source=Path(source).name if source else type(model).__name__,
    )


def quantization_name(config: Any) -> str | None:
    """What a model's ``quantization_config`` (an object or a mapping) does to its weights: ``int8``, ``nf4`` (with
    doubly quantised scales; ``nf4-single`` without) or another method's own name; None where there is none."""
    if config is None:
        return None
    values = config if isinstance(config, Mapping) else config.to_dict()
    if values.get("load_in_8bit"):
        return "int8"
    if values.get("load_in_4bit"):
        single = "" if values.get("bnb_4bit_use_double_quant") else "-single"
        return f"{values.get('bnb_4bit_quant_type', 'fp4')}{single}"
    method = values.get("quant_method") or type(config).__name__
    return str(getattr(method, "value", method))


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Digest of what decides a tokenizer's ids: vocabulary, special tokens, chat template, and how it splits a probe
    text (merges, normalisation, an added BOS). Which token pads decides nothing: masks say what is padding."""
    return _json_digest(
        {
            "probe": list(tokenizer(_PROBE, verbose=False)["input_ids"]),
            "vocabulary": sorted(tokenizer.get_vocab().items()),
            "special": {k: str(v) for k, v in sorted(tokenizer.special_tokens_map.items()) if k != "pad_token"},
            "chat_template": str(getattr(tokenizer, "chat_template", None) or ""),
        }
    )


def memory_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Digest of tensors by name, shape, precision and raw bytes."""
    import torch

    def raw(tensor: torch.Tensor) -> Any:
        return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data

    return _digest((name, f"{t.dtype}{tuple(t.shape)}", raw(t)) for name, t in sorted(tensors.items()))


def values_digest(parameters: Iterable[tuple[str, torch.Tensor]], *, sample: int = 64) -> str:
    """Digest of named parameters, another one once any of them was changed after loading, which a model's files do not
    show. It is of spread values and of the sum of every row's bits, at a tenth of the cost of hashing them all: spread
    values alone (often all of one column) miss an edit of a row or of a column."""
    import torch

    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    found = {}
    for name, parameter in parameters:
        values = parameter.detach().contiguous()
        flat = values.reshape(-1)
        rows, size = (values.flatten(0, -2) if values.ndim > 1 else flat[None]), values.itemsize
        eights = rows.shape[-1] * size % 8 == rows.storage_offset() * size % 8 == 0
        found[name] = flat[:: max(1, len(flat) // sample)][:sample].clone()
        found[f"{name} rows"] = rows.view(integers[8 if eights else size]).sum(-1, dtype=torch.int64)
    return memory_digest(found)


SOURCE_FOLDER = "_expunge_source"
"""Attribute of a loaded model: the folder its files were in. A hub id alone does not say which revision was loaded."""


def source_files(folder: str | Path) -> list[Path]:
    """The safetensors files that transformers loads from a folder; empty where there are none."""
    folder = Path(folder)
    if not str(folder) or not (folder / "config.json").is_file():
        return []
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if not index.is_file():
        return []
    names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    files = sorted(folder / name for name in names)
    return files if all(file.is_file() for file in files) else []


def hub_folder(hub_id: str) -> Path | None:
    """The folder of the hub cache that a hub id without a revision is loaded from."""
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(hub_id, "config.json", local_files_only=True, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError):
        return None
    return Path(found).parent if found else None


def _version(file: Path) -> tuple[int, ...]:
    """What changes when a file does; the change time too, since a modification time can be set back."""
    facts = file.stat()
    return facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


@lru_cache(maxsize=64)
def _files_digest(files: tuple[tuple[Any, ...], ...], ties: frozenset[str]) -> str:
    """Digest of weight files; the rest of each entry is there so that a changed file is read again."""
    return _digest(_file_tensors([path for path, *_ in files], ties))


def _file_tensors(files: Iterable[Path], ties: frozenset[str]) -> Iterable[tuple[str, str, Any]]:
    import mmap

    entries: list[tuple[str, str, Path, int, int]] = []
    for path in files:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        for name, entry in header.items():
            if name != "__metadata__" and name not in ties:
                begin, end = entry["data_offsets"]
                what = f"{entry['dtype']}{tuple(entry['shape'])}"
                entries.append((name, what, path, 8 + size + begin, 8 + size + end))
    for name, what, path, begin, end in sorted(entries):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            yield name, what, view[begin:end]


def _digest(tensors: Iterable[tuple[str, str, Any]]) -> str:
    digest = hashlib.sha256()
    for name, what, raw in tensors:
        digest.update(f"{name}\0{what}\0".encode())
        digest.update(raw)
    return digest.hexdigest()


def _json_digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
