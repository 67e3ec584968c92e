"""Protects that processes which make a pool's models say what went wrong, and end with the one that asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from expunge.errors import TrainingError
from expunge.meta.making import Maker
from expunge.meta.pool import Member, PoolRecipe
from expunge.meta.workers import _Worker, make_all

MEMBERS = [Member("000-as-asked", "as asked", 0, 1), Member("001-nothing", "nothing", 0, 1)]


@pytest.mark.slow
def test_what_fails_in_a_process_is_said_with_the_model(tmp_path: Path) -> None:
    maker = Maker(tmp_path, "authors", PoolRecipe(forget_rows=4), 0)
    with pytest.raises(TrainingError, match=r"training models: 00[01]-.*bases"):
        make_all(maker, [("model", MEMBERS)], jobs=2)
    assert not list(tmp_path.iterdir())


def test_a_process_that_stopped_is_told_from_one_that_failed(tmp_path: Path) -> None:
    worker = _Worker(Maker(tmp_path, "authors", PoolRecipe(), 0))
    worker._process.kill()
    with pytest.raises(TrainingError, match=r"training bases: 000-as-asked: the process stopped \(exit code -9"):
        worker.make("base", MEMBERS[0])
    worker.stop()
