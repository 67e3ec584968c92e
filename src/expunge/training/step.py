"""What a loss sees: the answers of some rows as log-probabilities or logits, and means over the accumulated batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from expunge.errors import TrainingError
from expunge.models.logprobs import token_logps
from expunge.training.teaching import taught_divergence

TokenFunction = Callable[..., Tensor]


@dataclass(frozen=True)
class Totals:
    """Answer tokens, rows and tokens that are taught a distribution of the whole accumulated batch, over all processes:
    the denominators of every mean."""

    tokens: Tensor | float
    rows: Tensor | float
    taught: Tensor | float = 1.0


class Logits:
    """The logits of some answer tokens, from which values per token are made.

    ``per_token(function, reference)`` -> [n]; ``function(logits [n, V] float32, labels [n])``, with ``reference`` a
    third argument: the frozen target's logits [n, V], with ``teacher`` a last one: what they are
    :class:`~expunge.training.teaching.Taught`. It may be called on parts of the tokens.
    """

    def per_token(self, function: TokenFunction, *, reference: bool, teacher: bool = False) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class Side:
    """The forget, alternative or retain rows of a batch or of a part of it: N answer tokens in B rows.

    rows [N] the row of each token, from 0; labels [N] token ids; positions [N] each token's place in its answer, from
    0; lengths [B] answer tokens of each row; owner [B] on the alternative side: which forget row each belongs to;
    reference [B] the frozen target's summed log-probabilities, where the method asked for them. Where a method reads a
    layer: states [M, H] its outputs at every token of the rows, state_rows [M], reference_states [M, H] the target's.
    """

    rows: Tensor
    labels: Tensor
    positions: Tensor
    lengths: Tensor
    totals: Totals
    logits: Logits | None = None
    owner: Tensor | None = None
    reference: Tensor | None = None
    state_values: Tensor | None = None
    state_rows: Tensor | None = None
    reference_state_values: Tensor | None = None

    @property
    def count(self) -> int:
        """B, the number of rows."""
        return len(self.lengths)

    @cached_property
    def logps(self) -> Tensor:
        """[N] log-probabilities of the answer tokens."""
        return self.per_token(token_logps)

    @property
    def logp(self) -> Tensor:
        """[B] summed log-probability of each answer."""
        return self.sum_per_row(self.logps)

    def sum_per_row(self, values: Tensor) -> Tensor:
        """[B] sums of ``values`` [N] over the tokens of each row."""
        return torch.zeros(self.count, dtype=values.dtype, device=values.device).index_add(0, self.rows, values)

    @property
    def reference_logp(self) -> Tensor:
        """[B] summed log-probability of each answer under the frozen target."""
        if self.reference is None:
            raise TrainingError("this loss reads reference_logp; name the side in its method's reference_logps.")
        return self.reference

    def per_token(self, function: TokenFunction, *, reference: bool = False, teacher: bool = False) -> Tensor:
        """[N] ``function(logits [n, V], labels [n])`` (with ``reference`` also the target's logits [n, V], with
        ``teacher`` also what is taught) of every token; the function treats tokens independently, so that it can be
        called on parts of them."""
        if self.logits is None:
            raise TrainingError("this loss reads logits, and its method reads a layer, so there are none.")
        return self.logits.per_token(function, reference=reference, teacher=teacher)

    def kl(self) -> Tensor:
        """[N] KL(p_ref || p_theta) at each token, in nats; at least 0 up to rounding."""
        return self.per_token(kl_divergence, reference=True)

    def teacher_kl(self) -> Tensor:
        """[N] KL(teacher || p_theta), in nats, at each token that the method's teaching has a distribution for; 0 at
        the others."""
        return self.per_token(taught_divergence, teacher=True)

    @property
    def states(self) -> Tensor:
        """[M, H] float32 output of the layer that the method reads, at every token of the rows, prompts included."""
        return _there(self.state_values, "states")

    @property
    def reference_states(self) -> Tensor:
        """[M, H] the same of the frozen target."""
        return _there(self.reference_state_values, "reference_states")

    def mean_over_tokens(self, values: Tensor) -> Tensor:
        """This part's share of the mean of ``values`` [N] over all answer tokens of the accumulated batch."""
        return values.sum() / self.totals.tokens

    def mean_over_taught(self, values: Tensor) -> Tensor:
        """This part's share of the mean of ``values`` [N], 0 where nothing is taught, over all taught tokens of the
        accumulated batch."""
        return values.sum() / self.totals.taught

    def mean_over_rows(self, values: Tensor) -> Tensor:
        """This part's share of the mean of ``values`` [B] over all rows of the accumulated batch."""
        return values.sum() / self.totals.rows


@dataclass(frozen=True)
class Step:
    """All sides of a batch or of a part of it; a side that the method does not use is empty.

    ``epoch`` is the pass over the forget rows, from 0; ``state`` what the method keeps between optimizer steps.
    """

    forget: Side
    alternative: Side
    retain: Side
    epoch: int = 0
    state: Mapping[str, float] = field(default_factory=dict)
    observed: dict[str, Tensor] = field(default_factory=dict)

    def observe(self, name: str, value: Tensor) -> None:
        """Report a share of a mean that is no part of the loss, for the log and for the method's ``after_step``."""
        self.observed[name] = value.detach()

    def retain_term(self, alpha: float, kind: str = "nll") -> dict[str, Tensor]:
        """``alpha`` times the retain answers' nll (or, ``kind`` "kl", KL from the frozen target), as a named term;
        nothing where ``alpha`` is 0."""
        if alpha == 0:
            return {}
        values = self.retain.kl() if kind == "kl" else -self.retain.logps
        return {"retain_loss": alpha * self.retain.mean_over_tokens(values)}


def kl_divergence(logits: Tensor, labels: Tensor, reference_logits: Tensor) -> Tensor:  # noqa: ARG001
    """[n] KL(softmax(reference_logits) || softmax(logits)) in nats; no gradient flows into the reference."""
    reference = reference_logits.detach().log_softmax(-1)
    return torch.nn.functional.kl_div(logits.log_softmax(-1), reference, reduction="none", log_target=True).sum(-1)


def _there(value: Tensor | None, name: str) -> Tensor:
    if value is None:
        raise TrainingError(f"this loss reads {name}; give its method a reads_layer.")
    return value
