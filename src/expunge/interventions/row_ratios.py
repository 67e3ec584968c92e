"""How near each row of a text comes to some hypercubes: one pass over rows, nothing of them kept but a number each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from expunge.data.batches import collate, length_batches, pad_id
from expunge.data.encode import Example, encode_all
from expunge.data.template import Style, Template
from expunge.distributed import gather, processes, share
from expunge.errors import ConfigError, ExpungeError, InputError, ModelError, did_you_mean
from expunge.evaluation.generation import input_device
from expunge.interventions.hypercube import Hypercubes
from expunge.models.anatomy import decoder_layers
from expunge.models.halves import Halves
from expunge.models.limits import max_tokens
from expunge.models.roles import Site
from expunge.models.state import evaluating
from expunge.models.taps import tapped
from expunge.requests.rows import Row
from expunge.training.run import Progress, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Mode = Literal["generate", "score"]

_CPU_TOKENS, _GPU_TOKENS = 2048, 8192  # padded tokens of a forward, as in probing
_LISTED = 5


@dataclass(frozen=True)
class RowRatios:
    """The smallest h with which each of C hypercubes detects each of R rows, float32 in host memory.

    ``joint`` [R, C] with all sites together, ``by_layer`` [L, R, C] with those of one layer alone; ``layers`` are their
    numbers (None stands for sites outside the layers). Infinite: no h does.
    """

    joint: Tensor
    by_layer: Tensor
    layers: tuple[int | None, ...]


def row_ratios(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    cubes: Hypercubes,
    mode: Mode = "generate",
    *,
    template: Style = "auto",
    max_length: int = 512,
    batch_rows: int = 64,
    batch_tokens: int | None = None,
    progress: Progress = silent,
) -> RowRatios:
    """The smallest ratio over the tokens of each row that will be looked at.

    ``generate``: the prompt's last token and the answer, as if the model had written it; its end token is never run.
    ``score``: every token. A token's ratio is the largest over the sites. Of routed experts those count that it was
    sent to; one that was sent to none of them has an infinite ratio.

    The model is run as it is, erasures that are applied included, in evaluation mode, without its head and without the
    layers above the last site. Several processes take a share of the rows each, and all of them have the result.

    Raises:
        InputError: there are no rows.
        EncodingError: rows that cannot be encoded, all of them named.
        ModelError: activations that are not finite numbers (the rows in which they are not are named).
    """
    if mode not in get_args(Mode):
        raise ConfigError(f"mode={mode!r} is not known. {did_you_mean(str(mode), get_args(Mode))}")
    if not rows:
        raise InputError("there are no rows to compare with hypercubes. Give at least one.")
    length = max_tokens(model, max_length)
    examples = encode_all(tokenizer, Template.of(tokenizer, template), rows, max_length=length)
    reader = _Reader(model, cubes, mode, pad_id(tokenizer))
    tokens = batch_tokens or (_CPU_TOKENS if reader.device.type == "cpu" else _GPU_TOKENS)
    own = share([len(example.input_ids) for example in examples])
    found: dict[int, Tensor] = {}
    error: ExpungeError | None = None
    try:
        with evaluating(model), torch.no_grad():
            for places in length_batches([len(examples[i].input_ids) for i in own], batch_rows, tokens):
                some = [own[place] for place in places]
                found |= zip(some, reader.read([examples[i] for i in some]).cpu(), strict=True)
                progress(min(len(found) * processes(), len(rows)), len(rows), "calibrate")
    except ExpungeError as raised:
        error = raised
    for other in gather([error]):  # whichever process failed, all of them hear of it
        if other is not None:
            raise other
    every = {index: ratios for part in gather([found]) for index, ratios in part.items()}
    ratios = torch.stack([every[index] for index in range(len(rows))], 1)
    _check(ratios, rows)
    return RowRatios(ratios[0], ratios[1:], reader.layers)


def _check(ratios: Tensor, rows: Sequence[Row]) -> None:
    bad = ratios.isnan().any(-1).any(0).nonzero()[:, 0].tolist()
    if bad:
        named = ", ".join(rows[index].source or repr(rows[index].prompt[:40]) for index in bad[:_LISTED])
        more = f" and {len(bad) - _LISTED} more rows" if len(bad) > _LISTED else ""
        raise ModelError(
            f"activations are NaN or infinite in {named}{more}. The model's weights are likely damaged or its "
            "precision too low; try another checkpoint or dtype float32."
        )


class _Reader:
    def __init__(self, model: PreTrainedModel, cubes: Hypercubes, mode: Mode, padding: int) -> None:
        self.model, self.cubes, self.mode, self.padding = model, cubes, mode, padding
        self.device = input_device(model)
        self.halves = Halves(model)
        self.layers = tuple(dict.fromkeys(site.layer for site in cubes.sites))
        numbers = [layer for layer in self.layers if layer is not None]
        self.last = max(numbers) if len(numbers) == len(self.layers) else None
        self.modules = [] if self.last is None else [module for _, module in decoder_layers(model)]

    def read(self, examples: Sequence[Example]) -> Tensor:
        """[R, 1 + L, C] the rows' smallest ratios, at all sites together and at those of each layer."""
        batch = collate(examples, self.padding)
        places, owner = self._looked_at(examples, batch.input_ids.shape[1])
        tokens = _Tokens(places, batch.input_ids.numel(), self.cubes)
        inputs: dict[str, Any] = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        inputs = {name: tensor.to(self.device) for name, tensor in inputs.items()}
        with tapped(self.model, {site: partial(tokens.tap, site) for site in self.cubes.sites}):
            if self.last is None:
                self.halves.states(**inputs)
            else:
                self.halves.layer_states(self.modules, self.last, **inputs)
        each = torch.stack([tokens.of_layer(layer).cpu() for layer in self.layers])
        # a NaN wins both the maximum and the minimum, and is reported
        every = torch.cat([each.amax(0, keepdim=True), each])
        least = [every[:, owner == row].amin(1) for row in range(len(examples))]
        return torch.stack(least)

    def _looked_at(self, examples: Sequence[Example], width: int) -> tuple[Tensor, Tensor]:
        """[P] the places of the tokens that are looked at in the batch, row after row, and the row of each."""
        places: list[int] = []
        owner: list[int] = []
        for row, example in enumerate(examples):
            length = len(example.input_ids)
            span = range(length) if self.mode == "score" else range(example.answer_start - 1, length - example.has_end)
            places += [row * width + place for place in span]
            owner += [row] * len(span)
        return torch.tensor(places), torch.tensor(owner)


class _Tokens:
    """The largest ratios so far of P tokens of a batch: at plain modules, and over the experts of each tensor."""

    def __init__(self, places: Tensor, size: int, cubes: Hypercubes) -> None:
        self.places, self.cubes = places, cubes
        self.number = torch.full((size,), -1)
        self.number[places] = torch.arange(len(places))
        self.found: dict[str, Tensor] = {}
        self.layer = {site.module: site.layer for site in cubes.sites}
        self._there: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def tap(self, site: Site, values: Tensor, tokens: Tensor | None) -> None:
        if values.device not in self._there:
            self._there[values.device] = (self.places.to(values.device), self.number.to(values.device))
        places, number = self._there[values.device]
        if tokens is None:
            if values.shape[:-1].numel() != len(number):
                raise ModelError(
                    f"{site.key} passes {list(values.shape)} for {len(number)} tokens; a value for each token is "
                    "needed. Name another module."
                )
            wanted, mine = values.reshape(-1, values.shape[-1]).index_select(0, places), None
        else:
            mine = number[tokens]
            wanted, mine = values[mine >= 0], mine[mine >= 0]
        ratios = self.cubes.ratio(site, wanted)
        before = self.found.get(site.module)
        if before is None:
            # no ratio is below 0, so that -1 says that no expert has seen the token
            before = self.found[site.module] = ratios.new_full((len(places), self.cubes.count), -1.0)
        if mine is None:
            torch.maximum(before, ratios, out=before)
        else:
            before[mine] = torch.maximum(before[mine], ratios)

    def of_layer(self, layer: int | None) -> Tensor:
        """[P, C]"""
        each = []
        for module in [name for name, number in self.layer.items() if number == layer]:
            if module not in self.found:
                raise ModelError(
                    f"{module} was not passed in a forward. If the model was compiled, load it anew: hooks are not "
                    "seen."
                )
            each.append(self.found[module].cpu())
        return torch.stack([some.masked_fill(some < 0, torch.inf) for some in each]).amax(0)
