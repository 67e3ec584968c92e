"""What an audit is, what it is given, and what it finds. Importing this loads no torch."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from expunge.config.fields import Fields
from expunge.data.template import Style
from expunge.errors import ConfigError, ModelError
from expunge.evaluation.types import Score
from expunge.files import for_json
from expunge.methods.interface import Kind, Paper, method_fields
from expunge.training.run import Progress, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.data.template import Template
    from expunge.methods.interface import Erasure
    from expunge.requests import Request

__all__ = ["Audit", "AuditResult", "Audited", "Label", "ModelName", "Paper", "method_fields"]

ModelName = Literal["target", "erased", "retrained"]
Label = Literal[
    "erased",  # to the level of a model that never knew
    "hidden",  # there for who looks inside or asks otherwise
    "leaks",  # said when asked plainly, too
    "comes back",  # after something was done to the model
    "suppressed",  # while a hook or a guard is in place
    "no claim",  # for want of a control, or of rows
]


@dataclass(frozen=True)
class Audited:
    """What is audited: ``target`` as it was before, and either the ``erasure`` that is applied to it or another model
    that is ``erased``; ``retrained`` is the control, where there is one.

    ``memory`` is for what audits of these very models compute and later ones can use, under keys that begin with the
    name of the module that writes them. All models keep their bits.
    """

    target: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    request: Request
    erasure: Erasure | None = None
    erased: PreTrainedModel | None = None
    retrained: PreTrainedModel | None = None
    template: Style = "auto"
    max_length: int = 512
    max_new_tokens: int = 200
    seed: int = 0
    memory: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if (self.erasure is None) == (self.erased is None):
            raise ConfigError(
                "an audit takes an erasure or an erased model beside the target, and "
                f"{'both were' if self.erasure else 'neither was'} passed. Pass one of them (--erasure or --erased)."
            )
        others = [model for model in (self.erased, self.retrained) if model is not None]
        if any(model is self.target for model in others) or len({id(model) for model in others}) < len(others):
            raise ConfigError("one model was passed in two roles. Load each model by itself.")
        carrying = [name for name in self.models if name != "erased" and _carried(getattr(self, name))]
        if carrying:
            raise ConfigError(
                f"the {' and the '.join(carrying)} model carries an erasure. Leave the context that applied it, and "
                "pass the erasure itself."
            )
        self._check_vocabularies()

    def _check_vocabularies(self) -> None:
        """Raise a :class:`~expunge.errors.ModelError` where a model lacks embeddings of the tokenizer's tokens. Tokens
        that the target has none for, as with a tokenizer that was given more, count where a row has one of them."""
        found = {name: _embeddings(getattr(self, name) or self.target) for name in self.models}
        sizes = {name: size for name, size in found.items() if size is not None}
        tokens = len(self.tokenizer)
        if not sizes or min(sizes.values()) >= tokens:
            return
        used = 1 + max(_token_ids(self.tokenizer, self.request), default=-1)
        needed = max(used, min(tokens, sizes.get("target", tokens)))
        if min(sizes.values()) < needed:
            every = ", ".join(f"{name} {size}" for name, size in sizes.items())
            raise ModelError(
                f"the tokenizer has {tokens} tokens, of which the rows use numbers up to {used - 1}, and the models "
                f"have embeddings of: {every}. Pass models with one vocabulary, and their own tokenizer."
            )

    @property
    def models(self) -> tuple[ModelName, ...]:
        """The names of the models that are there."""
        return ("target", "erased") if self.retrained is None else ("target", "erased", "retrained")

    @property
    def kind(self) -> Kind | None:
        """The erasure's family; None where the erased model is one of its own. Of several that are applied to the
        erased model one that acts at inference, if any."""
        if self.erasure is not None:
            return self.erasure.kind
        applied = _carried(self.erased)
        return next((kind for kind in applied if kind != "weights"), applied[0] if applied else None)

    @property
    def at_inference(self) -> bool:
        """Whether the erasure acts while the model runs and leaves its weights as they were."""
        return self.kind in ("activations", "inputs")

    @property
    def cleared(self) -> Label:
        """The label where nothing was found: of an erasure that acts at inference it says no more than that."""
        return "suppressed" if self.at_inference else "erased"

    @property
    def texts(self) -> Template:
        """How rows are rendered."""
        from expunge.data.template import Template

        return Template.of(self.tokenizer, self.template)

    @contextmanager
    def model(self, name: ModelName) -> Iterator[PreTrainedModel]:
        """One of the models, in evaluation mode; an erasure is applied inside and lifted on exit.

        Raises:
            ModelError: there is no such model, or the target is asked for while its erasure is applied.
        """
        from expunge.models.state import evaluating

        if name not in self.models:
            raise ModelError(f"there is no {name} model in this audit: it has {', '.join(self.models)}.")
        if name != "retrained" and self.erasure is not None and _carried(self.target):
            raise ModelError(f"the {name} model was asked for inside the context that has the erasure applied.")
        if name == "erased" and self.erasure is not None:
            with self.erasure.applied(self.target) as applied, evaluating(applied):
                yield applied
            return
        found: PreTrainedModel = getattr(self, name)
        with evaluating(found):
            yield found

    @contextmanager
    def lifted(self) -> Iterator[PreTrainedModel]:
        """What whoever lifts an inference-time erasure has: the target.

        Raises:
            ModelError: the erasure changes weights, so there is nothing to lift.
        """
        if not self.at_inference:
            raise ModelError("only an erasure that acts at inference (on activations or inputs) can be lifted.")
        with self.model("target") as model:
            yield model


def _carried(model: PreTrainedModel | None) -> tuple[Kind, ...]:
    """The kinds of the erasures that are applied to the model."""
    from expunge.models.state import APPLIED

    return tuple(getattr(model, APPLIED, ()))


def _embeddings(model: PreTrainedModel) -> int | None:
    """Of how many tokens the model has embeddings; None where it does not say."""
    try:
        return getattr(model.get_input_embeddings(), "num_embeddings", None)
    except (AttributeError, NotImplementedError):
        return None


def _token_ids(tokenizer: PreTrainedTokenizerBase, request: Request) -> Iterator[int]:
    for rows in request.sets.values():
        for row in rows:
            for text in (row.prompt, row.answer):
                yield from tokenizer(text, add_special_tokens=False)["input_ids"]


@dataclass(frozen=True)
class AuditResult:
    """What an audit found.

    ``rows``: scores by model, as in ``scores.json``. ``sentence``: the verdict in plain words, with its evidence.
    ``details``: further numbers, ready for JSON. ``curves``: for figures, ``{"title", "x", "y", "series": {model: [[x,
    y, standard error or None], ..]}}`` with ``x`` and ``y`` the axes' names. ``samples``: examples, one mapping each.
    """

    rows: Mapping[Any, Mapping[str, Score]]  # by ModelName
    label: Label
    sentence: str
    details: Mapping[str, Any] = field(default_factory=dict)
    curves: Sequence[Mapping[str, Any]] = ()
    samples: Sequence[Mapping[str, Any]] = ()

    def as_dict(self) -> dict[str, Any]:
        """The audit's entry in ``audits.json``; a score that is no number is left out and named under ``left_out``."""
        undefined = {m: [k for k, s in every.items() if not math.isfinite(s.value)] for m, every in self.rows.items()}
        left_out = {model: keys for model, keys in undefined.items() if keys}
        return {
            "verdict": {"label": self.label, "sentence": self.sentence},
            "rows": {
                model: {key: for_json(asdict(one)) for key, one in every.items() if key not in undefined[model]}
                for model, every in self.rows.items()
            },
            **({"left_out": left_out} if left_out else {}),
            "details": for_json(self.details),
            "curves": for_json(self.curves),
            "samples": for_json(self.samples),
        }


class Audit(Fields, ABC):
    """An attempt to find or bring back what was removed; its fields are its options.

    ``control`` says in a few words what the erased model is judged by; with ``needs_retrained`` there is no verdict
    without the retrained model. ``by_default``: it runs where no audit is named; those with a smaller ``order`` go
    first, and both follow the table of docs/meta.md. ``version`` goes up when numbers change.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    paper: ClassVar[Paper]
    needs_retrained: ClassVar[bool] = False
    control: ClassVar[str] = "retrained"
    order: ClassVar[int] = 50
    by_default: ClassVar[bool] = True

    @classmethod
    def section(cls) -> str:
        return f"audits.{cls.name}"

    def check_options(self) -> None:
        """Raise a :class:`~expunge.errors.ConfigError` where the options do not go together, or need a package that is
        not there. Asked before anything is loaded."""

    def check(self, audited: Audited) -> None:
        """Raise an :class:`~expunge.errors.InputError` that says what is missing where the audit does not apply."""

    @abstractmethod
    def run(self, audited: Audited, *, progress: Progress = silent) -> AuditResult:
        """Look; every model is left bit for bit as it was. The same call gives the same result."""
