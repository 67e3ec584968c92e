"""Neurons that are silenced: their values are zero."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from expunge.interventions.interface import Intervention, check_there, site_facts, sites_of
from expunge.models.roles import Site
from expunge.models.taps import tapped

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Pruning(Intervention):
    """``chosen``: the neurons [K] of each site that are zeroed."""

    kind: ClassVar[str] = "pruning"

    chosen: Mapping[Site, Tensor]

    @property
    def sites(self) -> Sequence[Site]:
        return tuple(self.chosen)

    @contextmanager
    def active(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> Iterator[None]:  # noqa: ARG002
        check_there(model, self.sites)
        with tapped(model, {site: _Tap(neurons) for site, neurons in self.chosen.items()}):
            yield

    def facts(self) -> dict[str, Any]:
        return {"kind": self.kind, "sites": site_facts(self.sites)}

    def tensors(self) -> dict[str, Tensor]:
        return {f"{site.key}.neurons": neurons for site, neurons in self.chosen.items()}

    @classmethod
    def read(cls, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        return cls({site: tensors[f"{site.key}.neurons"] for site in sites_of(facts)})

    @classmethod
    def united(cls, several: Sequence[Self]) -> list[Self]:
        """What silences every neuron that any of them does: the prune sets of several requests in one pass."""
        neurons: dict[Site, Tensor] = {}
        for pruning in several:
            for site, some in pruning.chosen.items():
                neurons[site] = torch.cat([neurons[site], some]) if site in neurons else some
        return [cls({site: some.unique() for site, some in neurons.items()})]


class _Tap:
    def __init__(self, neurons: Tensor) -> None:
        self.neurons = neurons
        self._there: dict[torch.device, Tensor] = {}

    def __call__(self, values: Tensor, tokens: Tensor | None) -> Tensor:  # noqa: ARG002
        if values.device not in self._there:
            self._there[values.device] = self.neurons.to(values.device)
        return values.index_fill(-1, self._there[values.device], 0)
