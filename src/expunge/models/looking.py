"""Where detectors look in one forward of a model, and what they have found there so far."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from expunge.errors import ConfigError, ModelError
from expunge.models.forwards import Passing
from expunge.models.roles import Site

if TYPE_CHECKING:
    from expunge.models.abstention import Detector

_NEVER = torch.iinfo(torch.int64).max


class Applied:
    """A detector on a model, and the first detected position of each row of the caches it has seen while scoring.

    Raises:
        ConfigError: the detector's parts do not fit together.
    """

    def __init__(self, detector: Detector, end_token: int, vocabulary: int) -> None:
        self.detector, self.end_token = detector, end_token
        self.sites = list(detector.sites)
        self.last = self.sites[-1] if self.sites else None
        self.dense = {site for site in self.sites if site.expert is None}
        self.layers = {_layer(site) for site in self.sites if site.expert is not None}
        self.firsts: WeakKeyDictionary[Any, Tensor] = WeakKeyDictionary()
        self._steers: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        problem = self._problem(vocabulary)
        if problem:
            raise ConfigError(f"{type(detector).__name__} cannot be applied: {problem}.")

    def _problem(self, vocabulary: int) -> str:
        count, refusals, steer = self.detector.count, self.detector.refusals, self.detector.steer
        if self.last is None or count < 1:
            return f"it has {len(self.sites)} sites and {count} cubes; both take at least one"
        if len(set(self.sites)) < len(self.sites):
            return "it names a site twice"
        if steer is None:
            if len(refusals) != count:
                return f"it has {len(refusals)} refusals for {count} cubes. Give each cube one (the same is fine)"
            strange = sorted(
                {t for tokens in (*refusals, (self.end_token,)) for t in tokens if not 0 <= t < vocabulary}
            )
            if strange:
                return f"tokens {strange} are outside the model's vocabulary of {vocabulary}. Encode with its tokenizer"
        elif self.last.expert is not None:
            return f"{self.last.key} is one expert of many, which cannot be steered by itself. Choose another last site"
        elif steer.ndim != 2 or len(steer) != count or steer.shape[1] != (self.last.width or steer.shape[1]):
            return f"steer is {list(steer.shape)} for {count} cubes of width {self.last.width}"
        return ""

    def steer(self, like: Tensor) -> Tensor | None:
        """[C, W] where ``like`` is and as it is; None where rows abstain instead."""
        if self.detector.steer is None:
            return None
        key = (like.device, like.dtype)
        if key not in self._steers:
            self._steers[key] = self.detector.steer.detach().to(*key)
        return self._steers[key]

    def first_positions(self, hits: Tensor, seen: int, cache: Any) -> Tensor:
        """[B] the first detected place of each row of ``hits`` [B, S], counted from the cache's beginning."""
        places = torch.arange(seen, seen + hits.shape[1], device=hits.device)
        first = torch.where(hits, places, _NEVER).amin(1)
        before = self.firsts.get(cache) if cache is not None else None
        if before is not None and before.shape == first.shape:
            # what was cut off the cache again counts no longer
            first = torch.minimum(first, torch.where(before < seen, before, _NEVER))
        if cache is not None:
            self.firsts[cache] = first
        return first


class Look:
    """The n tokens of a forward that are looked at.

    Args:
        places: [n] which of the B * S tokens they are, counted row after row; None for all.
        counted: [n] those of them that are no padding.
        columns: n = B * columns.
        steers: values may be replaced.
    """

    def __init__(
        self, passing: Passing, places: Tensor | None, counted: Tensor, columns: int, *, scoring: bool, steers: bool
    ) -> None:
        self.passing, self.columns, self.scoring, self.steers = passing, columns, scoring, steers
        self._places, self.counted = places, counted
        self._total = passing.positions.numel()
        self._found: dict[Applied, _Found] = {}

    @classmethod
    def everywhere(cls, passing: Passing) -> Look:
        """At every real token, as a scoring forward is looked at."""
        counted = passing.real.reshape(-1)
        return cls(passing, None, counted, passing.positions.shape[1], scoring=True, steers=True)

    def see(self, applied: Applied, site: Site, values: Tensor, tokens: Tensor | None) -> Tensor | None:
        """Show a detector what passes its site; returns what takes the values' place, if anything."""
        found = self._found.setdefault(applied, _Found())
        if tokens is not None:
            self._see_expert(applied, found, site, values, tokens)
            return None
        flat = self._by_token(values, site)
        places = None if self._places is None else self._places.to(flat.device)
        chosen = flat if places is None else flat[places]
        inside = applied.detector.inside(site, chosen.detach(), scoring=self.scoring)
        found.passed.add(site)
        found.dense = inside if found.dense is None else found.dense.to(inside.device) & inside
        steer = applied.steer(flat) if site == applied.last and self.steers else None
        held = self.held(applied) if steer is not None else None
        if steer is None or held is None:
            return None
        cubes = first_cube(held)
        steered = torch.where((cubes >= 0)[:, None], steer[cubes], chosen)
        if places is not None:
            steered = flat.index_copy(0, places, steered)
        return steered.reshape(values.shape)

    def held(self, applied: Applied) -> Tensor | None:
        """[n, C] which cubes hold a token at all sites; None where not all sites were passed."""
        found = self._found.get(applied)
        if found is None or found.passed != applied.dense:
            return None
        held = found.dense
        for layer in applied.layers:
            if layer not in found.layers:
                return None
            every, sent = found.layers[layer]
            here = every & sent[:, None]
            held = here if held is None else held.to(here.device) & here
        return None if held is None else held & self.counted.to(held.device)[:, None]

    def hits(self, applied: Applied) -> Tensor:
        """[B, columns] the tokens that some cube holds."""
        held = self.held(applied)
        hits = torch.zeros_like(self.counted) if held is None else held.any(-1).to(self.counted.device)
        return hits.reshape(-1, self.columns)

    def held_by(self, every: Sequence[Applied]) -> Tensor | None:
        """[B, columns, C] which cubes hold a token, those of all detectors in their order; None where there is none."""
        parts = [self.held(applied) for applied in every]
        if all(part is None for part in parts):
            return None
        counts = [applied.detector.count for applied in every]
        found = [
            self.counted.new_zeros(len(self.counted), count) if part is None else part.to(self.counted.device)
            for part, count in zip(parts, counts, strict=True)
        ]
        held = found[0] if len(found) == 1 else torch.cat(found, dim=1)
        return held.view(-1, self.columns, held.shape[1])

    def _by_token(self, values: Tensor, site: Site) -> Tensor:
        flat = values.reshape(-1, values.shape[-1])
        if len(flat) != self._total:
            raise ModelError(
                f"{site.key} passes {list(values.shape)} for {list(self.passing.positions.shape)} tokens; one vector a "
                "token is needed. Name another module."
            )
        return flat

    def _see_expert(self, applied: Applied, found: _Found, site: Site, values: Tensor, tokens: Tensor) -> None:
        layer = _layer(site)
        if layer not in found.layers:
            blank = self.counted.to(values.device).new_zeros(len(self.counted))
            found.layers[layer] = (blank.new_ones((len(blank), applied.detector.count)), blank)
        every, sent = found.layers[layer]
        if self._places is not None:
            looked = torch.full((self._total,), -1, device=values.device)
            looked[self._places.to(values.device)] = torch.arange(len(self.counted), device=values.device)
            tokens = looked[tokens]
            values, tokens = values[tokens >= 0], tokens[tokens >= 0]
        if len(tokens):
            every[tokens] &= applied.detector.inside(site, values.detach(), scoring=self.scoring)
            sent[tokens] = True


class _Found:
    """What a detector has found in a forward up to now."""

    def __init__(self) -> None:
        self.passed: set[Site] = set()
        self.dense: Tensor | None = None  # [n, C] at the sites that every token passes
        self.layers: dict[Hashable, tuple[Tensor, Tensor]] = {}  # of experts: inside at all so far; sent to one at all


def _layer(site: Site) -> Hashable:
    return site.module if site.layer is None else site.layer


def first_cube(held: Tensor) -> Tensor:
    """[..] the first cube of [.., C] that holds a token, else -1."""
    return torch.where(held.any(-1), held.to(torch.uint8).argmax(-1), -1)
