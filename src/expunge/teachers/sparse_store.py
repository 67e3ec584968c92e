"""A teacher's distributions in a folder: ``teacher.safetensors`` and a ``manifest.json`` that says what they are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from expunge.errors import CacheError
from expunge.files import new_folder, sha256, write_json
from expunge.teachers.sparse_rows import SparseRows

SCHEMA = 1
MANIFEST, TENSORS, ROWS = "manifest.json", "teacher.safetensors", "rows.jsonl"


@dataclass(frozen=True)
class Lost:
    """What sparse storage lost: KL(dense || kept) in nats over the positions, their mean and the largest."""

    mean: float = 0.0
    max: float = 0.0

    @classmethod
    def of(cls, values: Tensor) -> Lost:
        return cls(float(values.mean()), float(values.max())) if len(values) else cls()


@dataclass(frozen=True)
class SparseStore:
    """The distributions of some rows' positions, row after row.

    targets: n distributions; places [n] int32: which token of its row's answer each foresees, from 0; counts: how many
    positions each row has; facts: what made them what they are (the target, the texts, settings), as JSON.
    """

    targets: SparseRows
    places: Tensor
    counts: tuple[int, ...]
    lost: Lost
    facts: Mapping[str, Any]

    def of(self, row: int) -> tuple[Tensor, SparseRows]:
        """The places [m] and distributions [m] of one row."""
        begin = sum(self.counts[:row])
        chosen = slice(begin, begin + self.counts[row])
        return self.places[chosen], self.targets[chosen]

    def rows(self) -> list[tuple[Tensor, SparseRows]]:
        """:meth:`of` for every row in order."""
        starts = [0]
        for count in self.counts:
            starts.append(starts[-1] + count)
        spans = [slice(a, b) for a, b in pairwise(starts)]
        return [(self.places[span], self.targets[span]) for span in spans]

    @property
    def bytes(self) -> int:
        """What the distributions take, their places included."""
        return len(self.targets) * (self.targets.bytes_a_row + self.places.element_size())

    @property
    def share_of_dense(self) -> float:
        """The same over dense float32."""
        return self.bytes / max(1, 4 * len(self.targets) * self.targets.vocabulary)

    def summary(self) -> dict[str, Any]:
        """Sizes and what was lost, as the manifest and the run's record state them."""
        return {
            "rows": len(self.counts),
            "positions": len(self.targets),
            "vocabulary": self.targets.vocabulary,
            "kept_tokens": self.targets.k,
            "bytes": self.bytes,
            "share_of_dense_float32": round(self.share_of_dense, 6),
            "kl_lost_mean": self.lost.mean,
            "kl_lost_max": self.lost.max,
        }

    def save(self, folder: Path, rows: Sequence[Mapping[str, Any]] = ()) -> None:
        """Write both files, and ``rows``, where given, as ``rows.jsonl``; the folder appears whole or not at all."""
        with new_folder(folder) as temporary:
            if rows:
                lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
                (temporary / ROWS).write_text("".join(lines), encoding="utf-8")
            path = temporary / TENSORS
            tensors = {"ids": self.targets.ids, "logps": self.targets.logps, "tail": self.targets.tail}
            save_file({name: one.contiguous() for name, one in {**tensors, "places": self.places}.items()}, path)
            found = {"schema": SCHEMA, "facts": dict(self.facts), **self.summary()}
            write_json(temporary / MANIFEST, {**found, "counts": list(self.counts), "sha256": sha256(path)})

    @classmethod
    def load(cls, folder: Path, facts: Mapping[str, Any] | None = None) -> SparseStore:
        """Read what :meth:`save` wrote.

        Raises:
            CacheError: the files are damaged, or (``facts`` given) they are another teacher's.
        """
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            whole = manifest["schema"] == SCHEMA and sha256(folder / TENSORS) == manifest["sha256"]
            if not whole:
                raise ValueError
            with safe_open(folder / TENSORS, framework="pt") as file:
                held = {name: file.get_tensor(name) for name in ("ids", "logps", "tail", "places")}
            targets = SparseRows(held["ids"], held["logps"], held["tail"], int(manifest["vocabulary"]))
            lost = Lost(manifest["kl_lost_mean"], manifest["kl_lost_max"])
            store = cls(targets, held["places"], tuple(manifest["counts"]), lost, manifest["facts"])
            if sum(store.counts) != len(targets):
                raise ValueError
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise CacheError(
                f"{folder} is damaged or no teacher. Delete it; expunge teacher build, or the next run, makes it anew."
            ) from error
        if facts is not None and store.facts != json.loads(json.dumps(facts)):
            different = sorted(key for key in {*facts, *store.facts} if facts.get(key) != store.facts.get(key))
            raise CacheError(
                f"{folder} is the teacher of another model, request or settings ({', '.join(different)} differ). "
                "Delete that folder, or name another one (training.reference_cache)."
            )
        return store


def stored(parts: Sequence[tuple[Tensor, SparseRows, Tensor]], facts: Mapping[str, Any]) -> SparseStore:
    """A store of one row or more, given in order as places [m], distributions [m] and what each lost [m]."""
    return SparseStore(
        SparseRows.joined([part[1] for part in parts]),
        torch.cat([part[0] for part in parts]).to(torch.int32),
        tuple(len(part[0]) for part in parts),
        Lost.of(torch.cat([part[2] for part in parts])),
        facts,
    )
