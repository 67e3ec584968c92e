"""CE-U: learn the model's own distribution with the forget answer's token taken out."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from expunge.errors import ConfigError
from expunge.methods.interface import Paper, method_fields
from expunge.methods.weight_method import WeightMethod

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.training.step import Step


def ceu_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each token to sg(softmax(z with z_y = -inf)), sg the stop-gradient.

    Args:
        logits: [n, V] of the model being trained, V at least 2.
        labels: [n] token ids of the forget answers.

    Returns:
        [n] one loss a token, in nats. Its gradient by a logit is p_y at the answer token and -p_y q_v at every other
        token v, q_v = p_v / (1 - p_y): bounded, and gone once the answer token is.

    Source: Yang 2025, arXiv 2503.01224.
    """
    from torch.nn.functional import one_hot

    answer = one_hot(labels, logits.shape[-1]).bool()
    teacher = logits.detach().masked_fill(answer, float("-inf")).softmax(-1)
    return -(teacher * logits.log_softmax(-1)).sum(-1)


@method_fields
class CEU(WeightMethod):
    """Cross-entropy to the model's own distribution without the forget answer's token; retain rows are not read."""

    name: ClassVar[str] = "ceu"
    paper: ClassVar[Paper] = Paper("CE-U: Cross Entropy Unlearning", "arXiv 2503.01224")

    skip: int = Field(default=1, ge=0, description="first tokens of each answer that are left out of the mean")

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Mean over the tokens that are not skipped.

        An answer of exactly ``skip`` tokens takes no part. With ``skip`` 1 no answer is shorter; beyond that a shorter
        one is a :class:`ConfigError`, since the batch's totals cannot say how many tokens it lacks.
        """
        import torch

        forget, skip = step.forget, self.skip
        if skip > 1 and forget.count and int(forget.lengths.min()) < skip:
            raise ConfigError(
                f"method.skip={skip}: a forget answer has {int(forget.lengths.min())} tokens, fewer than are skipped. "
                "Lower method.skip or drop the row."
            )
        values = forget.per_token(ceu_loss) * (forget.positions >= skip)
        tokens = torch.as_tensor(forget.totals.tokens, dtype=torch.float32, device=values.device)
        left = (tokens - skip * forget.totals.rows).clamp(min=1e-6)  # none left: the sum is 0, and so is the mean
        return {"forget_loss": forget.mean_over_tokens(values) * (tokens / left)}
