"""Protects kept teachers: whole when written, refused when damaged or another's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from expunge.errors import CacheError
from expunge.teachers.sparse_rows import sparse_rows
from expunge.teachers.sparse_store import MANIFEST, TENSORS, SparseStore, stored

FACTS = {"asked": "abc", "vocabulary": 30}


def made() -> SparseStore:
    """Two rows of 3 and 2 positions, and one of none between them."""
    probs = torch.randn(5, 30, generator=torch.Generator().manual_seed(0)).softmax(-1)
    kept, lost = sparse_rows(probs, 4)
    parts = [(0, 3), (3, 3), (3, 5)]
    return stored([(torch.arange(b - a) + 2, kept[a:b], lost[a:b]) for a, b in parts], FACTS)


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    store = made()
    store.save(tmp_path / "teacher", [{"prompt": "", "answer": "text"}])
    found = SparseStore.load(tmp_path / "teacher", FACTS)
    assert found.counts == (3, 0, 2)
    assert found.lost == store.lost
    assert found.of(2)[0].tolist() == [2, 3]
    for (places, rows), (ours, own) in zip(found.rows(), store.rows(), strict=True):
        assert torch.equal(places, ours)
        assert torch.equal(rows.dense(), own.dense())
    assert {path.name for path in (tmp_path / "teacher").iterdir()} == {MANIFEST, TENSORS, "rows.jsonl"}


def test_sizes_and_losses_are_stated(tmp_path: Path) -> None:
    store = made()
    store.save(tmp_path / "teacher")
    manifest = json.loads((tmp_path / "teacher" / MANIFEST).read_text(encoding="utf-8"))
    # a position: 4 ids and 4 log-probabilities of 2 bytes, a tail and a place of 4; dense it is 30 of 4
    assert manifest["bytes"] == 5 * (4 * 4 + 4 + 4)
    assert manifest["share_of_dense_float32"] == pytest.approx(24 / 120)
    assert manifest["kl_lost_max"] >= manifest["kl_lost_mean"] > 0
    assert (manifest["rows"], manifest["positions"], manifest["kept_tokens"]) == (3, 5, 4)


@pytest.mark.parametrize("name", [MANIFEST, TENSORS])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str) -> None:
    made().save(tmp_path / "teacher")
    path = tmp_path / "teacher" / name
    path.write_bytes(path.read_bytes()[:-2] + b"  ")
    with pytest.raises(CacheError, match="damaged"):
        SparseStore.load(tmp_path / "teacher")


def test_another_teacher_is_refused_and_what_differs_is_named(tmp_path: Path) -> None:
    made().save(tmp_path / "teacher")
    with pytest.raises(CacheError, match=r"\(asked differ\)"):
        SparseStore.load(tmp_path / "teacher", {**FACTS, "asked": "other"})
