"""One pass over texts that reads chosen activations and keeps their statistics, nothing of a text itself.

skills = Probe(sites=["mlp_key"], pooling="last", part="prompt")
forget = skills.run(model, tokenizer, request.forget)
forget.mean("model.layers.3.mlp.down_proj:input")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor

from expunge.data.batches import Side, collate, length_batches, pad_id
from expunge.data.encode import Example, encode_all
from expunge.data.template import Style, Template
from expunge.distributed import gather, on_main, processes, share
from expunge.errors import ConfigError, ExpungeError, InputError, ModelError, did_you_mean
from expunge.evaluation.generation import input_device
from expunge.models.anatomy import decoder_layers
from expunge.models.fingerprint import Fingerprint, fingerprint, values_digest
from expunge.models.halves import Halves
from expunge.models.limits import max_tokens
from expunge.models.logprobs import takes_positions
from expunge.models.roles import Site, find_sites
from expunge.models.state import evaluating
from expunge.models.taps import tapped
from expunge.probing.result import Part, Pooling, ProbeResult, Scope
from expunge.probing.statistics import Moments, merge_all, row_means
from expunge.requests.rows import Row
from expunge.training.run import Progress, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_ROWS = 64
_CPU_TOKENS, _GPU_TOKENS = 2048, 8192  # padded tokens of a forward, as in scoring
_LISTED = 5


@dataclass(frozen=True)
class Probe:
    """What to read, and of which part of the texts.

    Args:
        sites: roles, patterns (see :func:`expunge.models.roles.find_sites`) or sites found before.
        layers: those that roles and patterns are looked for in, counted from 0; None means all.
        part, pooling: see :class:`~expunge.probing.result.Scope`.
        extremes: keep minimum and maximum, too.
        max_length: tokens of a row at most; longer ones lose their end.
        batch_rows, batch_tokens: of one forward at most, padding included; None: 2048 tokens on a CPU, 8192 elsewhere.
            They change speed and memory, not the statistics.
        side: the side that is padded, which changes nothing else either.
    """

    sites: str | Sequence[str | Site]
    _: KW_ONLY
    layers: tuple[int, ...] | None = None
    part: Part = "all"
    pooling: Pooling = "all"
    extremes: bool = False
    max_length: int = 512
    template: Style = "auto"
    batch_rows: int = _ROWS
    batch_tokens: int | None = None
    side: Side = "right"

    def __post_init__(self) -> None:
        for name, known in (("part", Part), ("pooling", Pooling), ("template", Style), ("side", Side)):
            value = getattr(self, name)
            if value not in get_args(known):
                raise ConfigError(f"{name}={value!r} is not known. {did_you_mean(str(value), get_args(known))}")
        for name in ("max_length", "batch_rows", "batch_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value}: at least 1 is needed.")

    def run(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        rows: Sequence[Row],
        *,
        progress: Progress = silent,
        target: Fingerprint | None = None,
    ) -> ProbeResult:
        """The statistics of ``rows``.

        The model is run in evaluation mode, without its head and without the layers above the last one asked for, and
        left as it was. Several processes take a share of the rows each, and all of them have the result.

        ``target`` is the model's fingerprint where it was taken before.

        Raises:
            InputError: there are no rows.
            EncodingError: rows that cannot be encoded, all of them named.
            ModelError: a site that is not found, is not passed once a forward, or whose activations are not finite
                numbers (the rows in which they are not are named).
        """
        if not rows:
            raise InputError("there are no rows to probe. Give at least one (two for a standard deviation).")
        if any(parameter.is_meta for parameter in model.parameters()):
            raise ModelError(
                "a part of the model's weights is offloaded, so that it cannot be told which model this is. Load it "
                "into memory whole: on several GPUs (device_map), or in fewer bits."
            )
        template = Template.of(tokenizer, self.template)
        length = max_tokens(model, self.max_length)
        examples = encode_all(tokenizer, template, rows, max_length=length)
        sites = self.find(model)
        if target is None:
            target = on_main(partial(fingerprint, model, tokenizer))
        digest = values_digest(model.named_parameters())

        def show(done: int) -> None:
            progress(min(done * processes(), len(rows)), len(rows), "probe")

        own = share([len(self._text(example)) for example in examples])
        error: ExpungeError | None = None
        found: dict[Site, Moments] = {}
        try:
            with evaluating(model), torch.no_grad():
                reader = _Reader(self, model, pad_id(tokenizer), sites)
                found = self._stream(reader, [(rows[i], examples[i]) for i in own], show)
        except ExpungeError as raised:
            error = raised
        # whichever process failed, all of them hear of it
        for other in gather([error]):
            if other is not None:
                raise other
        parts = gather([found])
        cut = sum(example.truncated for example in examples)
        scope = Scope(self.pooling, self.part, len(rows), cut, length, template.style)
        return ProbeResult({site: merge_all([part[site] for part in parts]) for site in sites}, scope, target, digest)

    def find(self, model: PreTrainedModel) -> list[Site]:
        """The sites that this probe reads of ``model``."""
        given = [self.sites] if isinstance(self.sites, str) else list(self.sites)
        words = [site for site in given if isinstance(site, str)]
        sites = {site.key: site for site in given if isinstance(site, Site)}
        there = {name for name, _ in [*model.named_modules(), *model.named_parameters()]}
        strange = [site.key for site in sites.values() if site.module not in there]
        if strange:
            raise ModelError(
                f"{type(model).__name__} has no {', '.join(strange[:_LISTED])}: {len(strange)} of the sites are "
                "another model's. Find them in this one."
            )
        if words or not sites:
            sites |= {site.key: site for site in find_sites(model, words, self.layers)}
        return list(sites.values())

    def _text(self, example: Example) -> list[int]:
        """The tokens that have to be run: what follows the prompt changes nothing in it."""
        return example.input_ids[: example.answer_start] if self.part == "prompt" else example.input_ids

    def _stream(
        self, reader: _Reader, rows: Sequence[tuple[Row, Example]], progress: Callable[[int], None]
    ) -> dict[Site, Moments]:
        tokens = self.batch_tokens or (_CPU_TOKENS if reader.device.type == "cpu" else _GPU_TOKENS)
        total: dict[Site, Moments] = {}
        done = 0
        for places in length_batches([len(self._text(e)) for _, e in rows], self.batch_rows, tokens):
            chosen = [rows[place] for place in places]
            found = reader.read([example for _, example in chosen])
            bad = _not_finite(found)
            if bad:
                raise _unusable(reader, bad, chosen)
            for site, moments in found.items():
                total[site] = total[site].merged(moments) if site in total else moments
            done += len(places)
            progress(done)
        empty = {site: Moments.none(site.width or 0, extremes=self.extremes) for site in reader.sites}
        return {**empty, **{site: moments.on_host() for site, moments in total.items()}}


class _Reader:
    """Runs a model on some rows and returns the moments of what its sites saw there."""

    def __init__(self, probe: Probe, model: PreTrainedModel, padding: int, sites: Sequence[Site]) -> None:
        self.probe, self.model, self.padding, self.sites = probe, model, padding, list(sites)
        self.device = input_device(model)
        self.halves = Halves(model)
        layers = [site.layer for site in sites]
        self.last = None if None in layers else max(layer for layer in layers if layer is not None)
        self.layers = [] if self.last is None else [module for _, module in decoder_layers(model)]

    def read(self, examples: Sequence[Example]) -> dict[Site, Moments]:
        """Sites without a value among these rows (experts) are left out."""
        texts = [replace(e, input_ids=self.probe._text(e)) for e in examples]
        batch = collate(texts, self.padding, self.probe.side)
        chosen = _Chosen(self.probe, texts, batch.input_ids.shape[1])
        found: dict[Site, Moments] = {}
        calls = dict.fromkeys(self.sites, 0)

        def tap(values: Tensor, tokens: Tensor | None, *, site: Site) -> None:
            calls[site] += 1
            wanted = chosen.of(values, tokens, site)
            if len(wanted):
                found[site] = Moments.of(wanted, extremes=self.probe.extremes)

        inputs: dict[str, Any] = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        if batch.side == "left" and takes_positions(self.model):
            inputs["position_ids"] = (batch.attention_mask.cumsum(-1) - 1).clamp(min=0)
        inputs = {name: tensor.to(self.device) for name, tensor in inputs.items()}
        with tapped(self.model, {site: partial(tap, site=site) for site in self.sites}):
            if self.last is None:
                self.halves.states(**inputs)
            else:
                self.halves.layer_states(self.layers, self.last, **inputs)
        for site, count in calls.items():
            if count > 1 or (not count and site.expert is None):
                raise ModelError(
                    f"{site.key} is passed {count} times in a forward of {type(self.model).__name__}; a probe reads "
                    "what is passed once. Name another module"
                    f"{'' if count else ', or, if the model was compiled, load it anew: hooks are not seen'}."
                )
        return found


class _Chosen:
    """Which tokens of a padded batch are looked at, [B, S] counted row after row, and how they become values."""

    def __init__(self, probe: Probe, examples: Sequence[Example], width: int) -> None:
        self.shape = (len(examples), width)
        self.mean = probe.pooling == "mean"
        places: list[int] = []
        rows: list[int] = []
        for row, example in enumerate(examples):
            length = len(example.input_ids)
            before = row * width + (0 if probe.side == "right" else width - length)
            first = example.answer_start if probe.part == "answer" else 0
            span = range(before + (length - 1 if probe.pooling == "last" else first), before + length)
            places += span
            rows += [row] * len(span)
        self.places, self.rows = torch.tensor(places), torch.tensor(rows)
        self.everything = len(places) == len(examples) * width
        self._there: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = {}

    def of(self, values: Tensor, tokens: Tensor | None, site: Site) -> Tensor:
        """[n, W] the values that count, of what a site saw."""
        places, rows, owner = self._on(values.device)
        if tokens is None:
            flat = self._by_token(values, site)
            wanted = flat if self.everything else flat.index_select(0, places)
        else:
            rows = owner[tokens]
            wanted, rows = values[rows >= 0], rows[rows >= 0]
        return row_means(wanted, rows) if self.mean and len(wanted) else wanted

    def _by_token(self, values: Tensor, site: Site) -> Tensor:
        count, width = self.shape[0] * self.shape[1], values.shape[-1] if values.ndim else 0
        known = values.shape[:-1] in (self.shape, (count,)) and values.is_floating_point()
        if not known or (site.width or width) != width:
            wanted = site.width or "width"
            raise ModelError(
                f"{site.key} passes {values.dtype} {list(values.shape)} for {self.shape[0]} rows of {self.shape[1]} "
                f"tokens; {[*self.shape, wanted]} or {[count, wanted]} is needed. Name another module."
            )
        return values.reshape(count, width)

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        if device not in self._there:
            owner = torch.full((self.shape[0] * self.shape[1],), -1)
            owner[self.places] = self.rows
            self._there[device] = (self.places.to(device), self.rows.to(device), owner.to(device))
        return self._there[device]


def _not_finite(found: Mapping[Site, Moments]) -> list[Site]:
    """The sites with values that are no finite numbers; each device is asked once."""
    by_device: dict[torch.device, list[tuple[Site, Tensor]]] = {}
    for site, moments in found.items():
        by_device.setdefault(moments.squares.device, []).append((site, moments.finite()))
    return [
        site
        for some in by_device.values()
        for (site, _), fine in zip(some, torch.stack([flag for _, flag in some]).tolist(), strict=True)
        if not fine
    ]


def _unusable(reader: _Reader, bad: Sequence[Site], rows: Sequence[tuple[Row, Example]]) -> ModelError:
    """The error over a batch with bad activations: it is run once more, row by row, to say in which they are."""
    guilty = [row.source or repr(row.prompt[:40]) for row, example in rows if _not_finite(reader.read([example]))]
    where = f" in {', '.join(guilty[:_LISTED])}" if guilty else ""
    more = f" and {len(guilty) - _LISTED} more rows" if len(guilty) > _LISTED else ""
    sites = ", ".join(site.key for site in bad[:_LISTED]) + (f" and {len(bad) - _LISTED} more" * (len(bad) > _LISTED))
    return ModelError(
        f"activations are NaN or infinite at {sites}{where}{more}. The model's weights are likely damaged or its "
        "precision too low; try another checkpoint or dtype float32."
    )
