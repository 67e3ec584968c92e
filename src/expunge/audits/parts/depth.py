"""The unlearning depth score: another model's hidden states put into the target, a layer at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expunge.data.batches import Batch, Side, collate, length_batches
from expunge.data.encode import Example
from expunge.errors import ModelError
from expunge.evaluation.generation import input_device
from expunge.models.anatomy import decoder_layers
from expunge.models.layer_runs import LayerRuns
from expunge.models.logprobs import label_logps
from expunge.models.roles import Site
from expunge.models.state import evaluating
from expunge.training.run import Progress, silent

VERSION = 1

_TOKENS = {"cpu": 2048}
_GPU_TOKENS = 16384
_LOGITS = 2**22


def depth_scores(baseline: np.ndarray, drops: np.ndarray, least: float = 0.05) -> np.ndarray:
    """[N] how deep each example is erased: over the layers l with d1 > ``least``, sum d1 clip(d2 / d1, 0, 1) / sum d1.

    ``baseline`` d1 and ``drops`` d2 [L, N] are how far the target's mean log-probability of an example's fact falls
    when layer l's states are those of the retrained and of the erased model. 0: the erased model's states tell the fact
    as the target's do; 1: no more than those of a model that never knew. NaN where no layer of the retrained model
    makes a difference. After Lee et al., "Measuring the Depth of LLM Unlearning via Activation Patching"
    (arXiv:2605.24614).
    """
    chosen = baseline > least
    weights = np.where(chosen, baseline, 0.0)
    shares = np.clip(drops / np.where(chosen, baseline, 1.0), 0, 1)
    total = weights.sum(0)
    return np.where(total > 0, (weights * shares).sum(0) / np.where(total > 0, total, 1.0), np.nan)


@dataclass(frozen=True)
class Facts:
    """Examples with the tokens [begin, end) of each that are its fact, and how they are put into batches. The same
    batches serve all models, so that equal models give equal numbers."""

    examples: Sequence[Example]
    spans: Sequence[tuple[int, int]]
    padding: int
    side: Side = "right"
    batch_tokens: int | None = None

    def batches(self, device: torch.device) -> list[tuple[list[int], Batch, Tensor]]:
        """Each batch's places among the examples, its tokens, and bool [B, S] the positions that predict facts."""
        tokens = self.batch_tokens or _TOKENS.get(device.type, _GPU_TOKENS)
        found = []
        for places in length_batches([len(one.input_ids) for one in self.examples], len(self.examples), tokens):
            batch = collate([self.examples[place] for place in places], self.padding, self.side)
            predicts = torch.zeros_like(batch.answer_mask)
            for row, place in enumerate(places):
                length, (begin, end) = len(self.examples[place].input_ids), self.spans[place]
                before = 0 if self.side == "right" else batch.input_ids.shape[1] - length
                predicts[row, before + begin - 1 : before + end - 1] = True
            found.append((places, batch.to(device), predicts.to(device)))
        return found


@torch.no_grad()
def hidden_states(model: Any, facts: Facts) -> list[list[Tensor]]:
    """For each batch and layer [k, H] the layer's outputs at the k positions that predict facts."""
    with evaluating(model):
        runs = LayerRuns(model)
        every = range(len(runs.layers))
        found = []
        for _, batch, predicts in facts.batches(input_device(model)):
            layers = runs.record(batch, layers=every).layers
            found.append([layers[layer][predicts.to(layers[layer].device)] for layer in every])
        return found


@torch.no_grad()
def drops(
    target: Any,
    sources: Sequence[Sequence[Tensor]],
    facts: Facts,
    *,
    progress: Progress = silent,
    what: str = "depth",
) -> tuple[np.ndarray, np.ndarray]:
    """[N] the target's mean log-probability of each example's fact, and [L, N] how far it falls when a layer's states
    at the positions that predict the fact are those of ``sources`` (:func:`hidden_states` of another model).

    Raises:
        ModelError: the sources are of a model of another shape.
    """
    count = len(facts.examples)
    with evaluating(target):
        runs = LayerRuns(target)
        layers, names = len(runs.layers), [name for name, _ in decoder_layers(target)]
        restarts: bool | None = None
        clean, found = np.zeros(count), np.zeros((layers, count))
        done = 0
        for (places, batch, predicts), states in zip(facts.batches(input_device(target)), sources, strict=True):
            own = runs.record(batch, layers=range(layers))
            _check(own.layers[0], states, layers)
            clean[places] = _mean_logps(runs, own.states, batch, predicts)
            if restarts is None:
                restarts = runs.restarts(batch, range(layers))
            for layer in range(layers):
                given = own.layers.pop(layer)
                given[predicts.to(given.device)] = states[layer].to(given)
                if restarts:
                    after = runs.run(batch, layer + 1, given)
                else:
                    tap = partial(_replaced, given=given)
                    after = runs.run(batch, 0, None, taps={Site(names[layer], "output"): tap})
                found[layer, places] = clean[places] - _mean_logps(runs, after, batch, predicts)
            done += len(places)
            progress(done, count, what)
    return clean, found


def _replaced(values: Tensor, tokens: Tensor | None, *, given: Tensor) -> Tensor:  # noqa: ARG001
    return given


def _mean_logps(runs: LayerRuns, states: Tensor, batch: Batch, predicts: Tensor) -> np.ndarray:
    """[B] mean log-probability of each row's fact."""
    there = predicts.to(states.device)
    labels = batch.input_ids.roll(-1, 1)[predicts].to(states.device)
    most = max(1, _LOGITS // runs.halves.vocabulary)
    logps = label_logps(runs.halves, states[there], labels, most).double()
    sums = torch.zeros(len(there), dtype=torch.float64, device=logps.device).index_add(0, there.nonzero()[:, 0], logps)
    found: np.ndarray = (sums / there.sum(-1)).cpu().numpy()
    return found


def _check(own: Tensor, states: Sequence[Tensor], layers: int) -> None:
    if len(states) != layers or states[0].shape[-1] != own.shape[-1]:
        raise ModelError(
            f"the target has {layers} layers of width {own.shape[-1]}, and the model whose states are put into it "
            f"{len(states)} of {states[0].shape[-1]}. Pass models of one architecture and size."
        )
