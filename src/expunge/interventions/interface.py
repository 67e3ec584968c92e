"""One change to a running model, which a saved erasure holds as tensors and plain facts."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar, Self

from expunge.errors import ErasureError
from expunge.models.roles import Site

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_KINDS = {"adjustment": "adjustment", "pruning": "pruning", "detection": "detection"}
"""Kind of intervention -> the module beside this one that defines it."""


class Intervention(ABC):
    """What is done at some sites of a model while it is active; nothing of it stays afterwards."""

    kind: ClassVar[str]

    @property
    @abstractmethod
    def sites(self) -> Sequence[Site]:
        """Where it acts, in the order in which a forward passes them."""

    @abstractmethod
    def active(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> AbstractContextManager[None]:
        """Inside, the model runs with the intervention, whatever calls it."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Everything but the tensors, as plain values; sites as :func:`site_facts` gives them."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, in host memory."""

    @classmethod
    @abstractmethod
    def read(cls, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """What :meth:`facts` and :meth:`tensors` came from."""

    @classmethod
    def united(cls, several: Sequence[Self]) -> Sequence[Self]:
        """The same as all of ``several`` one after the other, in as few as will do."""
        return several


def read_intervention(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Intervention:
    """The intervention of whatever kind.

    Raises:
        ErasureError: a kind that is not known.
    """
    kind = facts.get("kind")
    if kind not in _KINDS:
        raise ErasureError(
            f"this erasure holds an intervention of kind {kind!r}, which this version of expunge does not know. "
            f"Known: {', '.join(_KINDS)}."
        )
    module = importlib.import_module(f"{__package__}.{_KINDS[kind]}")
    (found,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Intervention) and value.__dict__.get("kind") == kind
    )
    made: Intervention = found.read(facts, tensors)
    return made


def site_facts(sites: Sequence[Site]) -> list[dict[str, Any]]:
    """Sites as plain values."""
    return [asdict(site) for site in sites]


def sites_of(facts: Mapping[str, Any]) -> tuple[Site, ...]:
    """The sites of an intervention's facts."""
    return tuple(Site(**site) for site in facts["sites"])


def check_there(model: nn.Module, sites: Sequence[Site]) -> None:
    """Refuse a model that lacks a site."""
    there = {name for name, _ in model.named_modules()} | {name for name, _ in model.named_parameters()}
    missing = [site.key for site in sites if site.module not in there]
    if missing:
        raise ErasureError(
            f"{type(model).__name__} has no {', '.join(missing[:5])}{' ..' if len(missing) > 5 else ''}: this erasure "
            "acts there. Apply it to the model that it was made for."
        )
