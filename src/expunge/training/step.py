"""What a loss sees of one forward: log-probabilities of both sides, and means over the whole accumulated batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.errors import TrainingError


@dataclass(frozen=True)
class Totals:
    """Answer tokens and rows of the whole accumulated batch, over all processes: the denominators of every mean."""

    tokens: Tensor | float
    rows: Tensor | float


@dataclass(frozen=True)
class Side:
    """The forget or the retain rows of one forward.

    logps [N] log-probabilities of the answer tokens; rows [N] the row of each, from 0; count B rows;
    reference [B] the frozen target's summed log-probabilities, where the method asked for them.
    """

    logps: Tensor
    rows: Tensor
    count: int
    totals: Totals
    reference: Tensor | None = None

    @property
    def logp(self) -> Tensor:
        """[B] summed log-probability of each answer."""
        return torch.zeros(self.count, dtype=self.logps.dtype, device=self.logps.device).index_add(
            0, self.rows, self.logps
        )

    @property
    def reference_logp(self) -> Tensor:
        """[B] the same under the frozen target."""
        if self.reference is None:
            raise TrainingError("this loss reads reference_logp; set needs_reference = True on its method.")
        return self.reference

    def mean_over_tokens(self, values: Tensor) -> Tensor:
        """This forward's share of the mean of ``values`` [N] over all answer tokens of the accumulated batch."""
        return values.sum() / self.totals.tokens

    def mean_over_rows(self, values: Tensor) -> Tensor:
        """This forward's share of the mean of ``values`` [B] over all rows of the accumulated batch."""
        return values.sum() / self.totals.rows


@dataclass(frozen=True)
class Step:
    """Both sides of one forward; a side that the method does not use is empty."""

    forget: Side
    retain: Side

    def retain_term(self, alpha: float) -> dict[str, Tensor]:
        """``alpha`` times the nll of the retain answers, as a named term; nothing where ``alpha`` is 0."""
        if alpha == 0:
            return {}
        return {"retain_loss": alpha * self.retain.mean_over_tokens(-self.retain.logps)}
