"""How far the logits of a changed model are from the target's: what patching and restoring have in common.

Each batch of examples is run once through both models, and what the changed runs need of that is kept until they are
done. A changed run restarts at the first layer that it changes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expunge.audits.parts.recovery import squared_errors
from expunge.audits.parts.shapes import Shape, check_shape
from expunge.data.batches import Batch, Side, collate, length_batches
from expunge.data.encode import Example
from expunge.evaluation.generation import free_bytes, input_device
from expunge.models.layer_runs import LayerRuns, Recorded
from expunge.models.roles import Site
from expunge.models.state import evaluating
from expunge.training.run import Progress, silent

Opened = Callable[[], AbstractContextManager[Any]]
"""``with opened() as model``: a model as it is to be run, with what is applied to it."""

Key = tuple[str, int, int]
"""A site by its role, its layer and its place among those of the layer: the same in both models."""

_TOKENS = {"cpu": 2048}  # padded tokens of a forward; on a GPU smaller ones leave it idle
_GPU_TOKENS = 16384
_LOGITS = 2**22  # float32 logits of changed runs in memory at a time
_BLOCK_BYTES = 2**30  # of the target's activations where the erasure is put on the same model
_CPU_BYTES = 2**30  # of both models' activations
_FREE_SHARE = 0.3  # the same of a GPU's free memory


@dataclass(frozen=True)
class Change:
    """What is put back of the target: a ``component`` of ``layers`` (a run of them). ``centre`` is the layer that the
    window stands for; None: it is no window."""

    component: str
    centre: int | None
    layers: range

    @property
    def first(self) -> int:
        """The layer below which nothing changes."""
        return self.layers.start


@dataclass(frozen=True)
class Errors:
    """Squared differences from the target's logits, summed over an example's positions and the vocabulary, of N
    examples: ``erased`` [N] of the erased model as it is, ``changed`` [N] of each change. ``scale`` [N]: the
    target's squared logits, summed, of which ``rounding`` is the share that the precision leaves open. ``restarted``:
    changed runs began at the first layer they change. ``cached_bytes``: the most that was kept of both models' forwards
    at a time. ``logps`` and ``target_logps`` [N]: the mean log-probability of an answer's tokens, of the erased model
    as it is and of the target."""

    erased: np.ndarray
    changed: Mapping[Change, np.ndarray]
    scale: np.ndarray
    rounding: float
    restarted: bool
    cached_bytes: int
    logps: np.ndarray
    target_logps: np.ndarray

    @property
    def least(self) -> np.ndarray:
        """[N] squared differences up to here are rounding."""
        return self.rounding**2 * self.scale

    @property
    def distance(self) -> float:
        """How far the erased model's logits are from the target's: the mean over examples of the norm of the difference
        over that of the target's logits."""
        return float(np.sqrt(self.erased / np.maximum(self.scale, np.finfo(float).tiny)).mean())


@dataclass(frozen=True)
class Kept:
    """One batch of examples and what the target said about it: its sites' values and its logits [m, V] at the m
    positions that predict answers; ``rows`` [m] says whose each is."""

    places: list[int]
    batch: Batch
    values: Mapping[Key, Tensor]
    logits: Tensor
    rows: Tensor

    @property
    def bytes(self) -> int:
        """What it takes up in memory."""
        return sum(values.numel() * values.element_size() for values in [*self.values.values(), self.logits])


@dataclass
class Comparison(ABC):
    """Runs the erased model with each of ``changes`` and compares logits with the target's, at the positions that
    predict the answers of ``examples``.

    Args:
        padding: the id to fill padding with.
        same_model: ``target`` and ``erased`` open one model object; it is then changed over as seldom as memory allows.
        restart: begin each changed run at its first layer; False where something applied to the erased model acts
            across layers, as guards and hooks that detect do. A model that carries hooks is run whole in any case.
        batch_tokens: padded tokens of one forward at most (a single example may be longer).
    """

    target: Opened
    erased: Opened
    examples: Sequence[Example]
    changes: Sequence[Change]
    _: KW_ONLY
    padding: int
    same_model: bool
    restart: bool = True
    side: Side = "right"
    batch_tokens: int | None = None
    progress: Progress = silent
    what: str = "comparing"

    def sites(self, model: Any) -> dict[Key, Site]:  # noqa: ARG002
        """Whose values are kept of the target."""
        return {}

    def entered(self, model: Any) -> None:  # noqa: B027
        """Called with the erased model before its runs."""

    @abstractmethod
    def groups(self, batch: Batch, tokens: int) -> Iterable[Sequence[Change]]:
        """The changes in groups that share a forward."""

    @abstractmethod
    def changed(
        self, runs: LayerRuns, kept: Kept, own: Recorded, group: Sequence[Change]
    ) -> AbstractContextManager[Tensor]:
        """[len(group) * B, S, H] what the head reads in each changed run; inside, the head is the changed model's."""

    @torch.no_grad()
    def errors(self) -> Errors:
        """Raises:
        ModelError: the two models are not of one shape.
        """
        count = len(self.examples)
        erased, scale = np.zeros(count), np.zeros(count)
        changed = {change: np.zeros(count) for change in self.changes}
        logps, target_logps = np.zeros(count), np.zeros(count)
        self._agrees: bool | None = None
        done = most = 0
        with self.target() as model:
            device, rounding = input_device(model).type, 2 * torch.finfo(model.dtype).eps
        tokens = self.batch_tokens or _TOKENS.get(device, _GPU_TOKENS)
        for block, shape in self._blocks(tokens):
            with self.erased() as model, evaluating(model):
                # the same weights in a coarser precision are no erasure
                runs, rounding = LayerRuns(model), max(rounding, 2 * torch.finfo(model.dtype).eps)
                check_shape(shape, Shape.of(model), tokens=self._known_tokens())
                self.entered(model)
                while block:
                    kept = block.pop(0)
                    own = self._record(runs, kept)
                    most = max(most, kept.bytes + own.bytes)
                    erased[kept.places] = self._differences(runs, own.states, kept, 1)[0]
                    scale[kept.places] = _size(kept, runs.halves.vocabulary)
                    plain = _logits(runs, own.states, predicting(kept.batch))
                    logps[kept.places] = _mean_logps(kept, plain, runs.halves.vocabulary)
                    theirs = kept.logits.split(_logit_rows(runs))
                    target_logps[kept.places] = _mean_logps(kept, theirs, runs.halves.vocabulary)
                    for group in self.groups(kept.batch, tokens):
                        with self.changed(runs, kept, own, group) as states:
                            found = self._differences(runs, states, kept, len(group))
                        for change, values in zip(group, found, strict=True):
                            changed[change][kept.places] = values
                    done += len(kept.places)
                    self.progress(done, count, self.what)
        restarted = self.restart and self._agrees is not False
        return Errors(erased, changed, scale, rounding, restarted, most, logps, target_logps)

    def _known_tokens(self) -> int:
        """The rows of embeddings that the examples need."""
        return 1 + max(self.padding, *(max(example.input_ids) for example in self.examples))

    def _blocks(self, tokens: int) -> Iterator[tuple[list[Kept], Shape]]:
        """What the target said: one batch, or as many as memory takes where the erasure is put on the same model."""
        lengths = [len(example.input_ids) for example in self.examples]
        batches = length_batches(lengths, len(lengths), self._cached_tokens(tokens))
        while batches:
            block: list[Kept] = []
            with self.target() as model, evaluating(model):
                runs, sites = LayerRuns(model), self.sites(model)
                while batches and (not block or (self.same_model and sum(k.bytes for k in block) < _BLOCK_BYTES)):
                    block.append(self._keep(runs, sites, batches.pop(0)))
                shape = Shape.of(model)
            yield block, shape

    def _cached_tokens(self, tokens: int) -> int:
        """Of how many tokens both models' activations are kept at a time."""
        with self.target() as model:
            width = model.get_input_embeddings().weight.shape[-1]
            entered = len({change.first for change in self.changes}) if self.restart else 0
            values = width * entered + sum(site.width or width for site in self.sites(model).values())
            free = free_bytes(input_device(model))
            room = _CPU_BYTES if free is None else int(_FREE_SHARE * free)
            each = int(values * next(model.parameters()).element_size())
            return max(1, min(tokens, room // max(1, each)))

    def _keep(self, runs: LayerRuns, sites: Mapping[Key, Site], places: list[int]) -> Kept:
        batch = collate([self.examples[place] for place in places], self.padding, self.side)
        batch = batch.to(input_device(runs.model))
        recorded = runs.record(batch, sites=list(sites.values()))
        predicts = predicting(batch)
        logits = torch.cat(list(_logits(runs, recorded.states, predicts)))
        values = {key: recorded.sites[site] for key, site in sites.items()}
        return Kept(places, batch, values, logits, predicts.nonzero()[:, 0])

    def _record(self, runs: LayerRuns, kept: Kept) -> Recorded:
        entering: Collection[int] = ()
        if self.restart and self._agrees is not False:
            entering = {change.first - 1 for change in self.changes if change.first}
        own = runs.record(kept.batch, layers=entering)
        if entering and self._agrees is None:
            self._agrees = runs.restarts(kept.batch, entering)
            if not self._agrees:
                return Recorded(own.states)
        return own

    def _differences(self, runs: LayerRuns, states: Tensor, kept: Kept, copies: int) -> list[np.ndarray]:
        predicts, count, found = predicting(kept.batch), len(kept.places), []
        shared = min(runs.halves.vocabulary, kept.logits.shape[-1])  # one of the two may have been padded
        for own in states.view(copies, *predicts.shape, states.shape[-1]):
            total, at = torch.zeros(count, dtype=torch.float64, device=states.device), 0
            for logits in _logits(runs, own, predicts):
                here = slice(at, at := at + len(logits))
                reference, rows = kept.logits[here].to(logits.device), kept.rows[here].to(logits.device)
                off = squared_errors(logits[:, :shared], reference[:, :shared], rows, count)
                total += off.to(total.device)
            found.append(total.cpu().numpy())
        return found


def predicting(batch: Batch) -> Tensor:
    """bool [B, S] the positions that predict an answer token."""
    found = torch.zeros_like(batch.answer_mask)
    found[:, :-1] = batch.answer_mask[:, 1:]
    return found


def _logits(runs: LayerRuns, states: Tensor, predicts: Tensor) -> Iterator[Tensor]:
    """The logits [m, V] at the chosen positions of states [B, S, H], some of them at a time: always the same some."""
    for part in states[predicts.to(states.device)].split(_logit_rows(runs)):
        yield runs.halves.logits(part)


def _logit_rows(runs: LayerRuns) -> int:
    return max(1, _LOGITS // runs.halves.vocabulary)


def _mean_logps(kept: Kept, parts: Iterable[Tensor], vocabulary: int) -> np.ndarray:
    """[B] the mean log-probability of each example's answer tokens by the logits that predict them, in ``parts``, among
    the tokens that the target and the erased model (``vocabulary`` of them) share."""
    shared = min(vocabulary, kept.logits.shape[-1])
    labels, at = kept.batch.input_ids.roll(-1, 1)[predicting(kept.batch)], 0
    sums = torch.zeros(len(kept.places), dtype=torch.float64)
    for logits in parts:
        here = slice(at, at := at + len(logits))
        wanted = labels[here].to(logits.device)[:, None]
        logps = logits[:, :shared].float().log_softmax(-1).gather(1, wanted)[:, 0]
        sums.index_add_(0, kept.rows[here].cpu(), logps.double().cpu())
    found: np.ndarray = (sums / kept.rows.cpu().bincount(minlength=len(sums))).numpy()
    return found


def _size(kept: Kept, vocabulary: int) -> np.ndarray:
    """[B] the squared logits of each example, summed; those beyond the erased model's vocabulary left out."""
    squares = kept.logits[:, :vocabulary].square().sum(-1, dtype=torch.float64)
    rows = kept.rows.to(squares.device)
    return (
        torch.zeros(len(kept.places), dtype=torch.float64, device=rows.device).index_add(0, rows, squares).cpu().numpy()
    )
