"""The rows of a training run as examples, and which of them meet in a forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from expunge.data.encode import Example
from expunge.training.schedule import Micro
from expunge.training.scoring import Layout
from expunge.training.teaching import Taught

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.methods.weight_method import WeightMethod
    from expunge.teachers.sparse_rows import SparseRows


@dataclass(frozen=True)
class Rows:
    """``alternatives`` holds, for each forget row, the same prompt with other answers; ``taught``, where a method
    teaches distributions, for each forget row which of its answer's tokens are taught which."""

    forget: Sequence[Example]
    retain: Sequence[Example]
    alternatives: Sequence[Sequence[Example]] = field(default_factory=tuple)
    taught: Sequence[tuple[Tensor, SparseRows]] = ()

    @property
    def any(self) -> Example:
        """Some row, to fill a forward that has none."""
        return next(e for rows in (self.forget, self.retain) for e in rows)

    def of(self, side: str) -> list[Example]:
        """All rows of a side."""
        if side == "alternative":
            return [example for some in self.alternatives for example in some]
        return list(self.forget if side == "forget" else self.retain)

    def batch(self, micro: Micro, method: WeightMethod) -> tuple[list[Example], Layout]:
        """What ``method`` reads of these rows, in the order of a batch, and which row of it is what."""
        sides = method.sides(micro.epoch)
        forget = [self.forget[i] for i in micro.forget] if "forget" in sides else []
        retain = [self.retain[i] for i in micro.retain] if "retain" in sides else []
        others: list[Example] = []
        owner: list[int] = []
        if "alternative" in sides:
            for place, (row, visit) in enumerate(zip(micro.forget, micro.visits, strict=True)):
                some = self.alternatives[row]
                if method.alternatives_in_turn and some:
                    some = [some[visit % len(some)]]
                others.extend(some)
                owner.extend([place] * len(some))
        examples = [*forget, *others, *retain]
        layout = Layout(
            lengths=tuple(example.answer_length for example in examples),
            counts=(len(forget), len(others), len(retain)),
            owner=tuple(owner),
            forget_rows=len(micro.forget) if forget or others else 0,
            epoch=micro.epoch,
            taught=tuple(len(self.taught[i][0]) for i in micro.forget) if forget and self.taught else (),
        )
        return examples, layout

    def lesson(self, micro: Micro, layout: Layout) -> Taught | None:
        """What the answer tokens of such a batch are taught; None where nothing is."""
        return Taught.of(layout.lengths, [self.taught[i] for i in micro.forget]) if layout.taught else None
