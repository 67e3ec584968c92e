"""RMU: steer the hidden states of what must go to a random direction, keep those of what must stay."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, cast

from pydantic import Field

from expunge.errors import ConfigError
from expunge.methods.interface import Paper, method_fields
from expunge.methods.weight_method import NO_SIDE, Sides, WeightMethod

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from expunge.training.step import Side, Step

_LAYERS_TRAINED = 3
_LISTED = 10


def rmu_loss(states: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared difference of each token's hidden state from where it should be.

    Args:
        states: [M, H] hidden states of the model being trained.
        wanted: [H] or [M, H]; c u for forget rows, the target's own states for retain rows. No gradient flows into it.

    Returns:
        [M] one loss a token, a mean over H.

    Source: Li et al. 2024, arXiv 2403.03218.
    """
    return (states - wanted.detach()).square().mean(-1)


def row_means(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """[count] mean of ``values`` [M] over the tokens of each row; ``rows`` [M] says which row a token is in."""
    sums = values.new_zeros(count).index_add(0, rows, values)
    tokens = values.new_zeros(count).index_add(0, rows, values.new_ones(len(values)))
    return sums / tokens.clamp(min=1)


@lru_cache(maxsize=8)
def direction(width: int, seed: int) -> Tensor:
    """[width] float32 on the CPU: drawn from U[0, 1) by ``seed`` and scaled to length 1; the same at every call."""
    import torch

    drawn = torch.rand(width, generator=torch.Generator().manual_seed(seed))
    unit: Tensor = drawn / torch.linalg.vector_norm(drawn)
    return unit


@method_fields
class RMU(WeightMethod):
    """Forget rows' states at one layer go to a random direction, retain rows' stay; three layers' MLPs are trained."""

    name: ClassVar[str] = "rmu"
    paper: ClassVar[Paper] = Paper(
        "The WMDP Benchmark: Measuring and Reducing Malicious Use With Unlearning", "arXiv 2403.03218"
    )

    coefficient: float = Field(
        default=6.5, gt=0, description="length c of the vector that forget states are steered to"
    )
    alpha: float = Field(default=1200.0, ge=0, description="weight of the retain rows' distance to the target's states")
    layer: int = Field(
        default=7, ge=0, description="decoder layer l, from 0, whose output is steered; layers l-2 to l are trained"
    )
    seed: int = Field(default=0, ge=0, description="seed of the random direction")

    @property
    def reference_logits(self) -> Sides:
        return frozenset({"retain"}) if self.alpha > 0 else NO_SIDE

    @property
    def reads_layer(self) -> int:
        return self.layer

    def trainable_layers(self, model: PreTrainedModel) -> tuple[str, ...]:
        """The down projections of layers l-2 to l; below layer 0 there are none."""
        from expunge.models.anatomy import down_projections

        self._check_layer(model)
        return tuple(down_projections(model, range(max(0, self.layer - _LAYERS_TRAINED + 1), self.layer + 1)))

    def check_trained(self, model: PreTrainedModel, names: Sequence[str]) -> None:
        from expunge.models.anatomy import decoder_layers

        self._check_layer(model)
        head = model.get_output_embeddings()
        unread = [name for name, _ in decoder_layers(model)[self.layer + 1 :]]
        unread += [name for name, module in model.named_modules() if module is head]
        above = [name for name in names if name.startswith(tuple(f"{one}." for one in unread))]
        if above:
            raise ConfigError(
                f"method.layer={self.layer}: rmu reads the output of that layer, and training.layers names "
                f"{len(above)} of {len(names)} above it, which get no gradient: {', '.join(above[:_LISTED])}"
                f"{' ..' if len(above) > _LISTED else ''}. Leave them out of training.layers, leave it empty for "
                "rmu's own choice, or set a higher method.layer."
            )

    def _check_layer(self, model: PreTrainedModel) -> None:
        from expunge.models.anatomy import decoder_layers

        count = len(decoder_layers(model))
        if self.layer >= count:
            raise ConfigError(
                f"method.layer={self.layer}: this model has {count} decoder layers, 0 to {count - 1}. Choose one of "
                "them; a layer at about a quarter of the depth is where the paper's own choice lies (7 of 32)."
            )

    def loss(self, step: Step) -> dict[str, Tensor]:
        forget, retain = step.forget, step.retain
        wanted = self.coefficient * direction(forget.states.shape[-1], self.seed).to(forget.states)
        terms = {"forget_loss": _mean(forget, rmu_loss(forget.states, wanted))}
        if self.alpha > 0:
            terms["retain_loss"] = self.alpha * _mean(retain, rmu_loss(retain.states, retain.reference_states))
        return terms


def _mean(side: Side, values: Tensor) -> Tensor:
    """Mean over rows of each row's mean over its own tokens, as a share of the accumulated batch."""
    return side.mean_over_rows(row_means(values, cast("Tensor", side.state_rows), side.count))
