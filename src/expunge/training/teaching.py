"""What a method that teaches distributions gives the training loop: rows, and what each of their tokens is taught."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from expunge.teachers.sparse_rows import SparseRows, divergence

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from expunge.data.encode import Example
    from expunge.data.template import Template
    from expunge.requests import Row
    from expunge.teachers.sparse_store import SparseStore
    from expunge.training.alternatives import Context


class Teaching(Protocol):
    """Rows that stand in for the forget rows, and the distributions that they are taught."""

    def rows(
        self, forget: Sequence[Row], tokenizer: PreTrainedTokenizerBase, template: Template, max_length: int
    ) -> Sequence[Row]:
        """The rows that the model is trained on, none longer than ``max_length`` tokens where that can be helped."""

    def targets(self, rows: Sequence[Row], examples: Sequence[Example], context: Context) -> SparseStore:
        """What the answers' tokens of these rows, encoded as ``examples``, are taught to be; ``context.model`` is the
        target."""


@dataclass(frozen=True)
class Taught:
    """What N answer tokens are taught: ``at`` [N] int64 is the place of each one's distribution in ``targets``, -1 for
    a token that is taught none."""

    targets: SparseRows
    at: Tensor

    def __len__(self) -> int:
        return len(self.at)

    def __getitem__(self, chosen: Any) -> Taught:
        """The same of some of the tokens."""
        return Taught(self.targets, self.at[chosen])

    def to(self, device: torch.device | str) -> Taught:
        """The same on ``device``."""
        return Taught(self.targets.to(device), self.at.to(device))

    @classmethod
    def of(cls, lengths: Sequence[int], rows: Sequence[tuple[Tensor, SparseRows]]) -> Taught:
        """Of rows of ``lengths`` answer tokens, of which the first ones are taught ``rows``: places and distributions
        of each."""
        at = torch.full((sum(lengths),), -1, dtype=torch.long)
        begin = held = 0
        for length, (places, targets) in zip(lengths, rows, strict=False):
            at[begin + places.long()] = torch.arange(held, held + len(targets))
            begin, held = begin + length, held + len(targets)
        return cls(SparseRows.joined([targets for _, targets in rows]), at)


def taught_divergence(logits: Tensor, labels: Tensor, taught: Taught) -> Tensor:  # noqa: ARG001
    """[n] KL(teacher || softmax(logits)) in nats at each token that is taught a distribution, 0 at the others."""
    (known,) = (taught.at >= 0).nonzero(as_tuple=True)
    values = divergence(logits[known], taught.targets[taught.at[known]])
    return torch.zeros(len(logits), dtype=values.dtype, device=values.device).index_put((known,), values)
