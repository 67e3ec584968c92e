"""What a probe found: the statistics of every site, and what they are of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from expunge.errors import InputError, UnknownNameError, did_you_mean
from expunge.models.fingerprint import Fingerprint
from expunge.models.roles import Site
from expunge.probing.statistics import Moments

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Pooling = Literal["all", "last", "mean"]
Part = Literal["prompt", "answer", "all"]


@dataclass(frozen=True)
class Scope:
    """Which values a statistic is of.

    ``part`` is what of a row is looked at (of a document, whose prompt is empty, the first token counts as prompt);
    ``pooling`` says what one value is: an activation at each token of the part (``all``), at its last token, or the
    mean over its tokens. ``rows`` were given, of which ``cut`` were longer than ``max_length`` tokens and lost their
    end.
    """

    pooling: Pooling
    part: Part
    rows: int
    cut: int
    max_length: int
    template: str


@dataclass(frozen=True)
class ProbeResult:
    """Statistics of activations, [width] float64 tensors in host memory, by site or by a site's key.

    ``target`` and ``values`` (a digest of the weights in memory) say of which model.
    """

    moments: Mapping[Site, Moments]
    scope: Scope
    target: Fingerprint
    values: str

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(self.moments)

    @cached_property
    def _by_key(self) -> dict[str, Moments]:
        return {site.key: moments for site, moments in self.moments.items()}

    def of(self, site: Site | str) -> Moments:
        """All statistics of a site.

        Raises:
            UnknownNameError: the probe did not look there.
        """
        key = site if isinstance(site, str) else site.key
        if key not in self._by_key:
            raise UnknownNameError(f"the probe has no site '{key}'. {did_you_mean(key, self._by_key)}")
        return self._by_key[key]

    def count(self, site: Site | str) -> int:
        """How many values there are; 0 for an expert to which no token was sent."""
        return self.of(site).count

    def mean(self, site: Site | str) -> Tensor:
        return self._some(site).mean

    def variance(self, site: Site | str) -> Tensor:
        """With n - 1; fewer than two values are an :class:`InputError`."""
        return self.of(site).variance

    def deviation(self, site: Site | str) -> Tensor:
        """The standard deviation, with n - 1; fewer than two values are an :class:`InputError`."""
        return self.of(site).deviation

    def magnitude(self, site: Site | str) -> Tensor:
        """The mean of absolute values."""
        return self._some(site).magnitude

    def minimum(self, site: Site | str) -> Tensor:
        return self._extreme(site, "minimum")

    def maximum(self, site: Site | str) -> Tensor:
        return self._extreme(site, "maximum")

    def differences(self, other: ProbeResult) -> list[str]:
        """What keeps the two from being put together or compared, in words: another model, sites or scope."""
        problems = self.target.differences(other.target)
        problems += [] if self.values == other.values else ["the weights in memory"]
        problems += [] if set(self.moments) == set(other.moments) else ["the sites"]
        mine, theirs = (replace(one.scope, rows=0, cut=0) for one in (self, other))
        problems += [] if mine == theirs else ["pooling, part, length or template"]
        return problems

    def merged(self, other: ProbeResult) -> ProbeResult:
        """The statistics over the rows of both.

        Raises:
            InputError: the two are of other models, sites or scopes.
        """
        problems = self.differences(other)
        if problems:
            raise InputError(f"two probes cannot be put together: {', '.join(problems)} differ. Probe both alike.")
        rows, cut = (getattr(self.scope, name) + getattr(other.scope, name) for name in ("rows", "cut"))
        both = {site: moments.merged(other.moments[site]) for site, moments in self.moments.items()}
        return replace(self, moments=both, scope=replace(self.scope, rows=rows, cut=cut))

    def save(self, folder: str | Path) -> None:
        """Write ``probe.json`` and ``statistics.safetensors`` into ``folder``, which appears whole or not at all."""
        from expunge.probing.saved import save_probe

        save_probe(self, folder)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        model: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> ProbeResult:
        """Read a saved probe; given a model, one of another model is refused
        (:func:`expunge.probing.saved.load_probe`)."""
        from expunge.probing.saved import load_probe

        return load_probe(folder, model, tokenizer)

    def _some(self, site: Site | str) -> Moments:
        found = self.of(site)
        if not found.count:
            key = site if isinstance(site, str) else site.key
            raise InputError(f"{key} has no values: none of the tokens was sent to this expert. Give more rows.")
        return found

    def _extreme(self, site: Site | str, name: Literal["minimum", "maximum"]) -> Tensor:
        found: Tensor | None = getattr(self._some(site), name)
        if found is None:
            raise InputError(f"the probe did not keep the {name} of its sites. Probe with extremes=True.")
        return found
