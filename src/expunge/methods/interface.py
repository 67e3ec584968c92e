"""What a method and an erasure are. Importing this loads no torch."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from expunge.errors import ConfigError, did_you_mean

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


class Method(ABC):
    """An unlearning algorithm; its fields are its hyperparameters, its command-line keys and its report rows."""

    name: ClassVar[str]
    family: ClassVar[Kind]
    paper: ClassVar[Paper]

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

    def check(  # noqa: B027 - most checks are optional
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        request: Request,
        *,
        run: Run | None = None,
    ) -> None:
        """Raise what :meth:`fit` would raise about its input, before an earlier run's folder is given up for it."""

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Self:
        """Build from plain values (a run file's ``method`` section without its name); all bad fields in one error."""
        try:
            return cls(**values)
        except ValidationError as error:
            known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
            meanings = {field["name"]: field["description"] for field in cls.parameters()}
            lines = []
            for problem in error.errors():
                field = ".".join(str(part) for part in problem["loc"])
                if problem["type"] == "unexpected_keyword_argument":
                    lines.append(f"method.{field}: no such field of {cls.name}. {did_you_mean(field, known)}")
                elif problem["type"] == "missing":
                    lines.append(f"method.{field} is required: {meanings[field]}. Pass method.{field}=..")
                else:
                    lines.append(f"method.{field}={problem['input']!r}: {problem['msg']}")
            raise ConfigError("\n".join(lines)) from error

    def values(self) -> dict[str, Any]:
        """The fields as plain values, as a run file and a manifest record them."""
        found: dict[str, Any] = TypeAdapter(type(self)).dump_python(self, mode="json")
        return found

    @classmethod
    def parameters(cls) -> list[dict[str, Any]]:
        """Name, type, default and description of every field, for listings and docs."""
        schema = TypeAdapter(cls).json_schema()
        required = set(schema.get("required", ()))
        return [
            {
                "name": name,
                "type": field.get("type", "|".join(str(t.get("type")) for t in field.get("anyOf", ()))),
                "default": None if name in required else field.get("default"),
                "required": name in required,
                "range": {k: field[k] for k in _RANGE_KEYS if k in field},
                "description": field.get("description", ""),
            }
            for name, field in schema.get("properties", {}).items()
        ]


_RANGE_KEYS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "enum")


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
