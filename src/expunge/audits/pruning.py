"""Does leaving out the smallest weights bring the forgotten answers back?"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from expunge.audits.interface import Audited, AuditResult, Paper, method_fields
from expunge.audits.parts.treating import TreatingAudit
from expunge.errors import ConfigError
from expunge.training.run import Progress, silent

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@method_fields
class Pruning(TreatingAudit):
    """The smallest weights of every matrix set to zero: do the forgotten answers come back?"""

    name: ClassVar[str] = "pruning"
    version: ClassVar[int] = 2
    paper: ClassVar[Paper] = Paper(
        "Learning both Weights and Connections for Efficient Neural Networks", "arXiv:1506.02626"
    )
    control: ClassVar[str] = "the retrained model, pruned as far"
    order: ClassVar[int] = 11
    by_default: ClassVar[bool] = False

    shares: tuple[float, ...] = Field(
        default=(0.1, 0.3, 0.5), min_length=1, description="shares of each matrix that are set to zero"
    )

    def check(self, audited: Audited) -> None:
        super().check(audited)
        if not all(0 < share < 1 for share in self.shares) or len(set(self.shares)) < len(self.shares):
            raise ConfigError(
                f"audits.pruning.shares={list(self.shares)}: expected different numbers between 0 and 1, such as 0.3."
            )

    def run(self, audited: Audited, *, progress: Progress = silent) -> AuditResult:
        from expunge.audits.parts.coming_back import Level

        self.check(audited)
        shares = sorted(self.shares)
        return self.after(
            audited,
            {
                Level(share, f"{share:g}", f"Without the smallest {100 * share:g}% of every matrix"): [_pruned(share)]
                for share in shares
            },
            untouched=Level(0.0, "0", "With all weights"),
            title="Smallest weights set to zero",
            axis="share of each matrix",
            never=f"without the smallest {' or '.join(f'{100 * share:g}%' for share in shares)} of every matrix",
            progress=progress,
        )


def _pruned(share: float) -> Callable[[PreTrainedModel], dict[str, Tensor]]:
    def treatment(model: PreTrainedModel) -> dict[str, Tensor]:
        from expunge.audits.parts.disturbed import without_smallest
        from expunge.audits.parts.plain_weights import matrices

        return {name: without_smallest(one.detach(), share) for name, one in matrices(model).items()}

    return treatment
