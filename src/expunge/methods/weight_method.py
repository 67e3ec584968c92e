"""The base of every method that changes weights: a loss over one step's scores, trained by the shared loop."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from expunge.methods.interface import Erasure, Kind, Method

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.requests import Request
    from expunge.training.run import Run
    from expunge.training.step import Step


class WeightMethod(Method):
    """A method that is a loss. Subclasses say which sides and references they read; nothing else is computed."""

    family: ClassVar[Kind] = "weights"
    uses_forget: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = False
    """Whether the loss reads the frozen target's log-probabilities of the forget answers."""

    @property
    def uses_retain(self) -> bool:
        """Whether the loss reads retain rows: every method with a positive ``alpha`` does."""
        return getattr(self, "alpha", 0.0) > 0

    @abstractmethod
    def loss(self, step: Step) -> dict[str, Tensor]:
        """Named terms of the loss of one micro-batch; their sum is what is minimised.

        Terms are built with ``step``'s means, which divide by the counts of the whole accumulated batch, so that adding
        up micro-batches gives the loss of the batch they make together.
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

        check_weights(self, model, tokenizer, forget=request.forget, retain=request.retain, run=run)

    def fit(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        request: Request,
        *,
        run: Run | None = None,
    ) -> Erasure:
        from expunge.training.fit import fit_weights

        return fit_weights(self, model, tokenizer, forget=request.forget, retain=request.retain, run=run)
