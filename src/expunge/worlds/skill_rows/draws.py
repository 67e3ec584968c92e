"""Drawing from word lists, the same in every version of Python."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Draws:
    """A stream of choices that depends on ``seed`` and ``name`` alone."""

    def __init__(self, seed: int, name: str) -> None:
        # of the generator's draws only random() is promised to stay the same in every version of Python
        self._next = random.Random(f"{name} {seed}").random

    def between(self, least: int, most: int) -> int:
        """A whole number from ``least`` to ``most``, both included."""
        return least + int(self._next() * (most - least + 1))

    def one(self, items: Sequence[T]) -> T:
        """One of ``items``."""
        return items[self.between(0, len(items) - 1)]

    def some(self, items: Sequence[T], count: int) -> list[T]:
        """``count`` different places of ``items``, in the order drawn."""
        left = list(items)
        return [left.pop(self.between(0, len(left) - 1)) for _ in range(count)]
