"""The base of every method that changes weights: a loss over one step's scores, trained by the shared loop."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from expunge.methods.interface import Erasure, Kind, Method, method_fields

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.requests import Request, Row
    from expunge.training.alternatives import Context
    from expunge.training.run import Run
    from expunge.training.step import Step
    from expunge.training.teaching import Teaching

SideName = Literal["forget", "alternative", "retain"]
Sides = frozenset[SideName]

NO_SIDE: Sides = frozenset()


class WeightMethod(Method):
    """A method that is a loss. Subclasses say which sides and references they read; nothing else is computed."""

    family: ClassVar[Kind] = "weights"
    uses_forget: ClassVar[bool] = True
    """Whether the loss reads the forget rows' own answers."""
    alternatives_in_turn: ClassVar[bool] = False
    """Whether each visit to a forget row uses one of its alternatives, in turn, instead of all of them."""
    whole_epochs: ClassVar[bool] = False
    """Whether every optimizer step stays within one pass over the forget rows."""

    @property
    def uses_retain(self) -> bool:
        """Whether the loss reads retain rows: every method with a positive ``alpha`` does."""
        return getattr(self, "alpha", 0.0) > 0

    @property
    def reference_logps(self) -> Sides:
        """The sides whose ``reference_logp`` (the frozen target's, [B]) the loss reads."""
        return NO_SIDE

    @property
    def reference_logits(self) -> Sides:
        """The sides on which the loss reads the frozen target's whole distributions."""
        return frozenset({"retain"}) if self.uses_retain and getattr(self, "retain", "nll") == "kl" else NO_SIDE

    @property
    def reads_layer(self) -> int | None:
        """The decoder layer whose output the loss reads instead of log-probabilities, from 0."""
        return None

    def sides(self, epoch: int) -> Sides:  # noqa: ARG002 - alike in every epoch, unless a method says otherwise
        """What is run through the model in pass ``epoch`` (from 0) over the forget rows."""
        found: set[SideName] = set()
        if self.uses_forget:
            found.add("forget")
        if type(self).alternatives is not WeightMethod.alternatives:
            found.add("alternative")
        if self.uses_retain:
            found.add("retain")
        return frozenset(found)

    def alternatives(
        self,
        forget: Sequence[Row],
        retain: Sequence[Row],  # noqa: ARG002
        *,
        context: Context,  # noqa: ARG002
    ) -> list[tuple[Row, ...]]:
        """For each forget row the rows with another answer that the loss reads beside it; none unless overridden."""
        return [()] * len(forget)

    def teaching(self, request: Request) -> Teaching | None:  # noqa: ARG002
        """The rows that stand in for the forget rows, and the distributions that they are taught
        (``step.forget.teacher_kl``); None for a loss on the forget rows' own answers."""
        return None

    def check_rows(self, forget: Sequence[Row], retain: Sequence[Row]) -> None:
        """Raise what :meth:`alternatives` would raise about these rows, before anything is run."""

    def check_trained(self, model: PreTrainedModel, names: Sequence[str]) -> None:
        """Raise where the loss does not reach one of the trained parameters (for an adapter: the adapted layers)."""

    def remark(self, epochs: float) -> str | None:  # noqa: ARG002
        """What to warn of where so many passes over the forget rows are planned; nothing unless overridden."""
        return None

    def trainable_layers(self, model: PreTrainedModel) -> tuple[str, ...]:  # noqa: ARG002
        """Patterns of the parameters trained where ``training.layers`` names none; () for all."""
        return ()

    def initial_state(self) -> dict[str, float]:
        """Numbers that live through training (a dual variable): logged, and kept in checkpoints and the manifest."""
        return {}

    def after_step(
        self,
        state: Mapping[str, float],
        terms: Mapping[str, float],  # noqa: ARG002
        *,
        epoch: float,  # noqa: ARG002
    ) -> dict[str, float]:
        """The state after an optimizer step whose loss had these terms (what ``step.observe`` was told included);
        ``epoch`` is the number of passes over the forget rows that are done."""
        return dict(state)

    @abstractmethod
    def loss(self, step: Step) -> dict[str, Tensor]:
        """Named terms of the loss of some rows; their sum is what is minimised.

        Terms are built with the sides' means, which divide by the counts of the whole accumulated batch. A batch may
        be handed over in parts (a forget row always with its alternatives), whose terms are added up: a loss is a sum
        over rows, divided by totals.
        """

    def check(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        request: Request,
        *,
        run: Run | None = None,
    ) -> None:
        from expunge.training.fit import check_weights

        # what is only worth a warning is said once, by fit
        check_weights(
            self,
            model,
            tokenizer,
            forget=request.forget,
            retain=request.retain,
            run=run,
            aloud=False,
            teaching=self.teaching(request),
        )

    def fit(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        request: Request,
        *,
        run: Run | None = None,
    ) -> Erasure:
        from expunge.training.fit import fit_weights

        return fit_weights(
            self,
            model,
            tokenizer,
            forget=request.forget,
            retain=request.retain,
            run=run,
            teaching=self.teaching(request),
        )


@method_fields
class RetainingMethod(WeightMethod):
    """A method that adds ``alpha`` times a retain term to its forget loss."""

    alpha: float = Field(default=1.0, ge=0, description="weight of the retain term")
    retain: Literal["nll", "kl"] = Field(
        default="nll", description="retain term: nll of the retain answers, or KL from the frozen target on them"
    )
