"""Protects prompt lengths: each forward is told its own rows' lengths, in its own thread, and nothing stays behind."""

from __future__ import annotations

import threading

import pytest

from expunge.errors import ConfigError, ModelError
from expunge.models.prompt_lengths import known_prompt_lengths, prompt_lengths


def test_lengths_hold_inside_and_the_inner_ones_first() -> None:
    assert known_prompt_lengths(2) is None
    with prompt_lengths([3, 1]):
        assert known_prompt_lengths(2) == (3, 1)
        with prompt_lengths([7]):
            assert known_prompt_lengths(1) == (7,)
        assert known_prompt_lengths(2) == (3, 1)
    assert known_prompt_lengths(2) is None


def test_nothing_stays_after_an_exception() -> None:
    with pytest.raises(RuntimeError), prompt_lengths([4]):
        raise RuntimeError
    assert known_prompt_lengths(1) is None


def test_other_threads_have_their_own() -> None:
    found: list[tuple[int, ...] | None] = []
    with prompt_lengths([5]):
        thread = threading.Thread(target=lambda: found.append(known_prompt_lengths(1)))
        thread.start()
        thread.join()
    assert found == [None]


def test_lengths_of_other_rows_are_refused() -> None:
    with prompt_lengths([3, 1, 2]), pytest.raises(ModelError, match=r"given for 3 rows.*runs over 2"):
        known_prompt_lengths(2)


def test_every_bad_length_is_named() -> None:
    with pytest.raises(ConfigError, match=r"2 of 3 .*row 0: -1, row 2: 1\.5") as caught, prompt_lengths([-1, 2, 1.5]):  # type: ignore[list-item]
        pass
    assert "whole number" in str(caught.value)
