"""What a method and an erasure are. Importing this loads no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as pydantic_dataclass

from expunge.config.fields import Fields

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.erasures.manifest import Manifest
    from expunge.requests import Request
    from expunge.training.run import Run

Kind = Literal["weights", "activations", "inputs"]

_MethodClass = TypeVar("_MethodClass")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(Field,))
def method_fields(cls: type[_MethodClass]) -> type[_MethodClass]:
    """Decorator for method classes: frozen, checked on construction, unknown fields and infinite values forbidden."""
    config = ConfigDict(extra="forbid", allow_inf_nan=False)
    made: Any = pydantic_dataclass(frozen=True, kw_only=True, config=config)(cls)
    return made  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Paper:
    """Where a method comes from."""

    title: str
    reference: str


class Method(Fields, ABC):
    """An unlearning algorithm; its fields are its hyperparameters, its command-line keys and its report rows."""

    name: ClassVar[str]
    family: ClassVar[Kind]
    paper: ClassVar[Paper]
    reads_documents: ClassVar[bool] = True
    """Whether rows without a prompt can be forget rows; if not, a request made from documents gives it questions."""

    @abstractmethod
    def fit(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        request: Request,
        *,
        run: Run | None = None,
    ) -> Erasure:
        """Learn to forget ``request`` and return what does it; ``model`` is left exactly as it was.

        ``run`` brings the training settings, a folder for checkpoints to resume from and a progress display; without it
        the defaults hold and nothing is written.
        """

    def check(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        request: Request,
        *,
        run: Run | None = None,
    ) -> None:
        """Raise what :meth:`fit` would raise about its input, before an earlier run's folder is given up for it."""


class Erasure(ABC):
    """What a method leaves behind: small, saved, loadable, and lifted again without a trace."""

    kind: ClassVar[Kind]
    manifest: Manifest
    tokenizer: PreTrainedTokenizerBase | None = None
    """The target's tokenizer, as ``fit`` leaves it; set it on a loaded erasure to have it checked by ``applied``."""

    @property
    def details(self) -> dict[str, Any]:
        """Figures about the erasure that its manifest records (how much changed, how long it took)."""
        return self.manifest.details

    def note(self, **details: Any) -> None:
        """Add figures to the manifest; ``save`` writes them."""
        self.manifest = self.manifest.model_copy(update={"details": {**self.details, **details}})

    @abstractmethod
    def applied(self, model: PreTrainedModel) -> AbstractContextManager[PreTrainedModel]:
        """Inside the context the model is erased; on exit, after an exception too, it is bit for bit what it was.

        Refuses a model whose fingerprint is not the target's (:class:`expunge.errors.ErasureError`).
        """

    @abstractmethod
    def save(self, folder: str | Path) -> None:
        """Write manifest and tensors into ``folder``, which appears whole or not at all."""

    @classmethod
    def load(cls, folder: str | Path) -> Erasure:
        """Read any erasure that ``save`` wrote; a damaged one is refused."""
        from expunge.erasures.manifest import load_erasure

        return load_erasure(folder)
