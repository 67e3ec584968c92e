"""Does leaving out the smallest weights bring the forgotten answers back?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from expunge.audits.interface import Audit, Audited, AuditResult, Paper, method_fields
from expunge.audits.parts.attack import answer_room, asked_rows
from expunge.errors import ConfigError
from expunge.training.run import Progress, silent

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@method_fields
class Pruning(Audit):
    """The smallest weights of every matrix set to zero: do the forgotten answers come back?"""

    name: ClassVar[str] = "pruning"
    paper: ClassVar[Paper] = Paper(
        "Learning both Weights and Connections for Efficient Neural Networks", "arXiv:1506.02626"
    )
    needs_retrained: ClassVar[bool] = True
    control: ClassVar[str] = "the retrained model, pruned as far"
    order: ClassVar[int] = 21
    by_default: ClassVar[bool] = False

    shares: tuple[float, ...] = Field(
        default=(0.1, 0.3, 0.5), min_length=1, description="shares of each matrix that are set to zero"
    )
    limit: int = Field(default=20, gt=0, description="forget rows that are asked, evenly spread")
    retain_rows: int = Field(default=40, ge=0, description="retain rows that tell a ruined model, evenly spread")

    def check(self, audited: Audited) -> None:
        from expunge.audits.parts.plain_weights import matrices

        asked_rows(audited, self.limit)
        if not all(0 < share < 1 for share in self.shares) or len(set(self.shares)) < len(self.shares):
            raise ConfigError(
                f"audits.pruning.shares={list(self.shares)}: expected different numbers between 0 and 1, such as 0.3."
            )
        for model in (audited.target, audited.erased, audited.retrained):
            if model is not None:
                matrices(model)

    def run(self, audited: Audited, *, progress: Progress = silent) -> AuditResult:
        from expunge.audits.parts.coming_back import Course, Level, coming_back_result
        from expunge.audits.parts.treated import treated

        self.check(audited)
        rows = asked_rows(audited, self.limit)
        audited = replace(audited, max_new_tokens=answer_room(audited, rows))
        levels = {
            Level(share, f"{share:g}", f"Without the smallest {100 * share:g}% of every matrix"): [_pruned(share)]
            for share in sorted(self.shares)
        }
        seen = treated(audited, rows, levels, utility=self.retain_rows, progress=progress)
        course = Course(
            "",
            "Smallest weights set to zero",
            "share of each matrix",
            [Level(0.0, "0", "With all weights"), *levels],
            seen,
            f"without the smallest {' or '.join(f'{100 * share:g}%' for share in sorted(self.shares))} of every matrix",
            tuple(level.key for level in levels),
        )
        return coming_back_result(self.name, self.version, audited, rows, [course], details={})


def _pruned(share: float) -> Callable[[PreTrainedModel], dict[str, Tensor]]:
    def treatment(model: PreTrainedModel) -> dict[str, Tensor]:
        from expunge.audits.parts.disturbed import without_smallest
        from expunge.audits.parts.plain_weights import matrices

        return {name: without_smallest(one.detach(), share) for name, one in matrices(model).items()}

    return treatment
