"""Neurons whose value is more likely on forget text than on retain text take the mirrored value of retain text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from expunge.interventions.draws import neuron_keys, token_keys, uniform
from expunge.interventions.interface import Intervention, check_there, site_facts, sites_of
from expunge.models.forwards import Passing, Watch, watching
from expunge.models.roles import Site
from expunge.models.taps import tapped

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_DRAWS = 2**22  # made at once for all sites: one layer's few are mostly the cost of starting to work
_TENSORS = ("neurons", "mean_f", "sd_f", "mean_r", "sd_r")


def log_density_ratio(values: Tensor, mean_f: Tensor, sd_f: Tensor, mean_r: Tensor, sd_r: Tensor) -> Tensor:
    """log N(v; mean_f, sd_f) - log N(v; mean_r, sd_r), elementwise; its logistic function is N_f / (N_f + N_r)."""
    return _Curve.of(mean_f, sd_f, mean_r, sd_r).ratio(values)


def mirrored(values: Tensor, mean_f: Tensor, sd_f: Tensor, mean_r: Tensor, sd_r: Tensor) -> Tensor:
    """mean_r - sd_r (v - mean_f) / sd_f, elementwise: as far from the retain mean as v is from the forget mean, in
    standard deviations, on the other side (Effective Skill Unlearning, arXiv 2503.21730)."""
    return _Curve.of(mean_f, sd_f, mean_r, sd_r).mirrored(values)


@dataclass(frozen=True)
class _Curve:
    """Both functions of a value v as polynomials in v - mean_r, in which no large numbers cancel; all [K]."""

    mean_r: Tensor
    square: Tensor
    linear: Tensor
    constant: Tensor
    base: Tensor
    slope: Tensor

    @classmethod
    def of(cls, mean_f: Tensor, sd_f: Tensor, mean_r: Tensor, sd_r: Tensor) -> Self:
        mean_f, sd_f, mean_r, sd_r = (one.double() for one in (mean_f, sd_f, mean_r, sd_r))
        apart = mean_f - mean_r
        values = (
            mean_r,
            (sd_r**-2 - sd_f**-2) / 2,
            apart / sd_f**2,
            (sd_r / sd_f).log() - (apart / sd_f) ** 2 / 2,
            mean_r + sd_r / sd_f * apart,
            -sd_r / sd_f,
        )
        return cls(*(value.float() for value in values))

    def on(self, device: torch.device) -> _Curve:
        return _Curve(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

    def ratio(self, values: Tensor) -> Tensor:
        apart = values - self.mean_r
        return torch.addcmul(self.constant, apart, torch.addcmul(self.linear, self.square, apart))

    def mirrored(self, values: Tensor) -> Tensor:
        return torch.addcmul(self.base, self.slope, values - self.mean_r)


@dataclass(frozen=True)
class Adjusted:
    """The neurons of one site that are adjusted: all [K], indices and the two normal distributions of their values."""

    neurons: Tensor
    mean_f: Tensor
    sd_f: Tensor
    mean_r: Tensor
    sd_r: Tensor


@dataclass(frozen=True)
class Adjustment(Intervention):
    """A value v of a chosen neuron with N_f(v) > N_r(v) becomes its mirror image (:func:`mirrored`) with probability
    N_f / (N_f + N_r), drawn anew for each token and neuron (:mod:`~expunge.interventions.draws`); with
    ``deterministic`` always."""

    kind: ClassVar[str] = "adjustment"

    chosen: Mapping[Site, Adjusted]
    seed: int = 0
    deterministic: bool = False

    @property
    def sites(self) -> Sequence[Site]:
        return tuple(self.chosen)

    @contextmanager
    def active(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> Iterator[None]:  # noqa: ARG002
        check_there(model, self.sites)
        with watching(model) as watch:
            draws = _Draws(self, watch)
            with tapped(model, {site: _Tap(self, draws, site) for site in self.sites}):
                yield

    def facts(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "sites": site_facts(self.sites),
            "seed": self.seed,
            "deterministic": self.deterministic,
        }

    def tensors(self) -> dict[str, Tensor]:
        return {f"{site.key}.{name}": getattr(one, name) for site, one in self.chosen.items() for name in _TENSORS}

    @classmethod
    def read(cls, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        chosen = {site: Adjusted(*(tensors[f"{site.key}.{name}"] for name in _TENSORS)) for site in sites_of(facts)}
        return cls(chosen, int(facts["seed"]), bool(facts["deterministic"]))


class _Draws:
    """The thresholds that a log density ratio must exceed: log(u / (1 - u)) for a uniform u, at least 0.

    t > 0 and u < 1 / (1 + exp(-t)) is t > max(0, log(u / (1 - u))).
    """

    def __init__(self, adjustment: Adjustment, watch: Watch) -> None:
        self.adjustment, self.watch = adjustment, watch
        chosen = adjustment.chosen
        keys = [neuron_keys(site.key, one.neurons) for site, one in chosen.items()]
        self.spans: dict[Site, slice] = {}
        begin = 0
        for site, some in zip(chosen, keys, strict=True):
            self.spans[site] = slice(begin, begin + len(some))
            begin += len(some)
        self.keys = torch.cat(keys)
        self._keys: dict[torch.device, Tensor] = {}
        self._made: tuple[Passing, Tensor] | None = None

    def thresholds(self, site: Site, values: Tensor, tokens: Tensor | None) -> Tensor | float:
        """[.., K] for the tokens whose values [.., W] the site passes; ``tokens`` as a tap has them."""
        if self.adjustment.deterministic:
            return 0.0
        passing = self.watch.current
        if passing is None:
            raise RuntimeError(f"{site.key} was passed outside a forward of the model that the erasure is applied to.")
        span, count = self.spans[site], passing.positions.numel()
        if count * len(self.keys) > _DRAWS:
            found = self._of(passing, self._keys_on(values.device)[span])
        else:
            if self._made is None or self._made[0] is not passing:
                self._made = (passing, self._of(passing, self._keys_on(passing.positions.device)))
            found = self._made[1][:, span].to(values.device)
        if tokens is not None:
            return found[tokens]
        return found.view(*values.shape[:-1], found.shape[-1])

    def _of(self, passing: Passing, keys: Tensor) -> Tensor:
        """[n, K] for the n tokens of the batch, row after row."""
        positions = passing.positions.flatten().to(keys.device)
        ids = None if passing.ids is None else passing.ids.flatten().to(keys.device)
        return uniform(token_keys(self.adjustment.seed, positions, ids), keys).logit().clamp_min(0)

    def _keys_on(self, device: torch.device) -> Tensor:
        if device not in self._keys:
            self._keys[device] = self.keys.to(device)
        return self._keys[device]


class _Tap:
    def __init__(self, adjustment: Adjustment, draws: _Draws, site: Site) -> None:
        self.adjustment, self.draws, self.site = adjustment, draws, site
        self._there: dict[torch.device, tuple[Tensor, _Curve]] = {}

    def __call__(self, values: Tensor, tokens: Tensor | None) -> Tensor:
        neurons, curve = self._on(values.device)
        given = values.index_select(-1, neurons)
        wide = given.float()
        likely = curve.ratio(wide) > self.draws.thresholds(self.site, values, tokens)
        changed = torch.where(likely, curve.mirrored(wide).to(values.dtype), given)
        return values.index_copy(-1, neurons, changed)

    def _on(self, device: torch.device) -> tuple[Tensor, _Curve]:
        if device not in self._there:
            one = self.adjustment.chosen[self.site]
            curve = _Curve.of(one.mean_f, one.sd_f, one.mean_r, one.sd_r)
            self._there[device] = (one.neurons.to(device), curve.on(device))
        return self._there[device]
