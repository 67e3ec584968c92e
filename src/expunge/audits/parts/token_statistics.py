"""One forward over each text gives what all membership attacks need: log-probabilities, what the model expected of
them, and how large the text's gradient is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from expunge.data.batches import collate, length_batches
from expunge.data.encode import Example
from expunge.evaluation.generation import input_device
from expunge.models.anatomy import decoder_layers
from expunge.models.halves import Halves
from expunge.models.logprobs import token_logps
from expunge.models.prompt_lengths import prompt_lengths
from expunge.models.state import evaluating
from expunge.training.run import Progress, silent

_ROWS = 64
_LOGIT_VALUES = 2**25  # float32 logits of a batch, which the gradient keeps
_TOKENS = {"cpu": 2048}
_GPU_TOKENS = 8192


@dataclass(frozen=True)
class TokenStatistics:
    """Of one answer's T tokens: ``logps`` [T] natural-log probabilities; ``means`` and ``deviations`` [T] of log p(z)
    over tokens z drawn from the model's own p at each place. ``has_end``: the last is the end token.

    ``gradient``: the norm of the gradient of the mean loss with respect to the weights of all linear modules in the
    decoder layers; NaN where it was not asked for, or none flows.
    """

    logps: np.ndarray
    means: np.ndarray
    deviations: np.ndarray
    has_end: bool
    gradient: float

    def without_end(self) -> TokenStatistics:
        """The same tokens, the end token left out."""
        if not self.has_end:
            return self
        return TokenStatistics(self.logps[:-1], self.means[:-1], self.deviations[:-1], False, self.gradient)


def token_statistics(
    model: Any,
    examples: Sequence[Example],
    padding: int,
    *,
    gradients: bool = True,
    progress: Progress = silent,
) -> list[TokenStatistics]:
    """The statistics of every example's answer, in order, with whatever is applied to the model.

    Gradients are taken with respect to activations: no parameter needs one, and none is left with one. The rows of a
    batch share the forward and the backward; the norm of a row's gradient follows from what goes into a linear module,
    A, and the gradient at what comes out of it, G: |G^T A|^2 is the sum of the elementwise product of A A^T and G G^T.
    Goodfellow (arXiv:1510.01799), there for single vectors.
    """
    halves, device = Halves(model), input_device(model)
    tokens = max(256, min(_TOKENS.get(device.type, _GPU_TOKENS), _LOGIT_VALUES // halves.vocabulary))
    found: dict[int, TokenStatistics] = {}
    with evaluating(model):
        for places in length_batches([len(one.input_ids) for one in examples], _ROWS, tokens):
            some = [examples[place] for place in places]
            found |= zip(places, _of_batch(halves, some, padding, device, gradients), strict=True)
            progress(len(found), len(examples), "statistics of tokens")
    return [found[place] for place in range(len(examples))]


def _of_batch(
    halves: Halves, examples: Sequence[Example], padding: int, device: torch.device, gradients: bool
) -> list[TokenStatistics]:
    batch = collate(examples, padding).to(device)
    predicts = torch.zeros_like(batch.answer_mask)
    predicts[:, :-1] = batch.answer_mask[:, 1:]
    labels = batch.input_ids[:, 1:][batch.answer_mask[:, 1:]]
    lengths = [one.answer_length for one in examples]
    squares = torch.full((len(examples),), torch.nan)
    with torch.set_grad_enabled(gradients), _linear_inputs(halves, batch.input_ids.shape, gradients) as passed:
        with prompt_lengths(one.answer_start for one in examples):
            states = halves.states(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        logits = halves.logits(states[predicts.to(states.device)])
        logps = token_logps(logits, labels.to(logits.device))
        if gradients and logps.requires_grad:
            # each row's loss depends on its own tokens alone, so that one backward serves all of them
            weights = torch.cat([torch.full((length,), 1 / length) for length in lengths])
            squares = _squares(-(logps * weights.to(logps.device)).sum(), passed, len(examples))
    shares = logits.detach().log_softmax(-1)
    means = (shares.exp() * shares).sum(-1, keepdim=True)
    deviations = (shares.exp() * (shares - means).square()).sum(-1).sqrt()
    ends = np.cumsum(lengths)[:-1]
    parts = [np.split(v.detach().cpu().double().numpy(), ends) for v in (logps, means[:, 0], deviations)]
    norms = squares.clamp(min=0).sqrt().tolist()
    return [
        TokenStatistics(own, expected, around, one.has_end, norm)
        for own, expected, around, one, norm in zip(*parts, examples, norms, strict=True)
    ]


@contextmanager
def _linear_inputs(halves: Halves, shape: torch.Size, wanted: bool) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Inside, what goes into and comes out of every linear module of the decoder layers is kept as the model runs, and
    a gradient flows from its input embeddings on."""
    passed: list[tuple[Tensor, Tensor]] = []

    def keep(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> None:
        entered = arguments[0] if arguments else next(iter(named.values()))
        # an expert that was sent some of the tokens does not say whose they are
        if output.requires_grad and entered.shape[:-1].numel() == shape.numel():
            passed.append((entered.detach(), output))

    def begin(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return output.detach().requires_grad_()

    handles = []
    try:
        if wanted:
            handles.append(halves.model.get_input_embeddings().register_forward_hook(begin))
            for _, layer in decoder_layers(halves.model):
                linear = [module for module in layer.modules() if isinstance(module, (nn.Linear, Conv1D))]
                handles += [module.register_forward_hook(keep, with_kwargs=True) for module in linear]
        yield passed
    finally:
        for handle in handles:
            handle.remove()


def _squares(loss: Tensor, passed: Sequence[tuple[Tensor, Tensor]], rows: int) -> Tensor:
    """[rows] the squared norms of the gradients of each row's share of ``loss``."""
    total = torch.zeros(rows, dtype=torch.float64)
    if not passed:
        return total * torch.nan
    gradients = torch.autograd.grad(loss, [output for _, output in passed], allow_unused=True)
    for (entered, _), gradient in zip(passed, gradients, strict=True):
        if gradient is not None:
            ours = entered.reshape(rows, -1, entered.shape[-1]).float()
            back = gradient.reshape(rows, -1, gradient.shape[-1]).float()
            total += ((ours @ ours.mT) * (back @ back.mT)).sum((1, 2), dtype=torch.float64).cpu()
    return total
