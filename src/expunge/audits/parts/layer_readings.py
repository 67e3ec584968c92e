"""What each layer would answer, were it the last one: its output through the model's own final norm and head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expunge.audits.parts.comparing import predicting
from expunge.data.batches import Batch, collate, length_batches
from expunge.data.encode import Example
from expunge.errors import ModelError
from expunge.evaluation.generation import input_device
from expunge.models.layer_runs import LayerRuns, Recorded
from expunge.models.logprobs import token_logps
from expunge.models.state import evaluating
from expunge.training.run import Progress, silent

_ROWS = 64
_TOKENS = 2048  # padded tokens of a forward, of which every layer's states are kept
_LOGITS = 2**24  # float32 logits in memory at a time


@dataclass(frozen=True)
class LayerReadings:
    """Of n answers by L layers, counted from the first; the last one is the model itself.

    ``logps`` [L, n] the mean natural-log probability of the answer's tokens, the end token left out; ``first`` [L, n]
    the probability of its first token, and ``ranks`` [L, n] how many tokens are likelier than that, and one.
    """

    logps: np.ndarray
    first: np.ndarray
    ranks: np.ndarray

    def first_rows(self, count: int) -> LayerReadings:
        """Those of the first ``count`` answers."""
        return LayerReadings(self.logps[:, :count], self.first[:, :count], self.ranks[:, :count])


@torch.no_grad()
def check_layers(model: Any, examples: Sequence[Example], padding: int) -> None:
    """Raise the :class:`~expunge.errors.ModelError` of :func:`layer_readings` where these few examples show already
    that the model's layers cannot be read."""
    runs = LayerRuns(model)
    with evaluating(model):
        batch = collate(examples, padding).to(input_device(model))
        _check_last(runs, batch, runs.record(batch, layers=[len(runs.layers) - 1]))


@torch.no_grad()
def layer_readings(
    model: Any, examples: Sequence[Example], padding: int, *, progress: Progress = silent
) -> LayerReadings:
    """Read every layer's output at the positions that predict the answers of ``examples``.

    What follows on the layers is the model's own code: each layer's output is handed to it in place of the last one's.
    After nostalgebraist, "Interpreting GPT: the logit lens" (2020).

    Raises:
        ModelError: the last layer's output, handed on so, does not give what the model gives: its layers hand on more
            than their output, or something applied to the model acts across them.
    """
    runs, device = LayerRuns(model), input_device(model)
    shape = (len(runs.layers), len(examples))
    logps, first, ranks = (np.zeros(shape) for _ in range(3))
    done = 0
    with evaluating(model):
        for places in length_batches([len(one.input_ids) for one in examples], _ROWS, _TOKENS):
            batch = collate([examples[place] for place in places], padding).to(device)
            recorded = runs.record(batch, layers=range(len(runs.layers)))
            _check_last(runs, batch, recorded)
            for layer, states in recorded.layers.items():
                found = _read(runs, batch, states, [examples[place] for place in places])
                for values, own in zip((logps, first, ranks), found, strict=True):
                    values[layer, places] = own
            done += len(places)
            progress(done, len(examples), "reading layers")
    return LayerReadings(logps, first, ranks)


def _check_last(runs: LayerRuns, batch: Batch, recorded: Recorded) -> None:
    if not runs.agrees(batch, recorded):
        raise ModelError(
            f"the output of the last layer of {type(runs.model).__name__} does not tell what the model says: what is "
            "applied to it acts beyond its layers, or its layers hand on more than their output. logit_lens does not "
            "apply; leave it out."
        )


def _read(
    runs: LayerRuns, batch: Batch, states: Tensor, examples: Sequence[Example]
) -> tuple[list[float], list[float], list[float]]:
    last = runs.run(batch, len(runs.layers), states)
    wanted = predicting(batch)
    chosen = last[wanted.to(last.device)]
    labels = batch.input_ids[:, 1:][batch.answer_mask[:, 1:]].to(last.device)
    begins = np.cumsum([0, *(one.answer_length for one in examples)])
    size = max(1, _LOGITS // runs.halves.vocabulary)
    logps, above = [], []
    for some, tokens in zip(chosen.split(size), labels.split(size), strict=True):
        logits = runs.halves.logits(some)
        own = token_logps(logits, tokens)
        logps.append(own)
        above.append((logits > logits.gather(1, tokens[:, None])).sum(-1))
    every = torch.cat(logps).double().cpu().numpy()
    higher = torch.cat(above).cpu().numpy()
    spans = [
        every[begin : end - (one.has_end and one.answer_length > 1)]
        for begin, end, one in zip(begins[:-1], begins[1:], examples, strict=True)
    ]
    return (
        [float(span.mean()) for span in spans],
        np.exp(every[begins[:-1]]).tolist(),
        (higher[begins[:-1]] + 1).tolist(),
    )
