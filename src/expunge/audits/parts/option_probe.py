"""Can the answer still be read out? A linear probe from next-token logits to the right option of multiple choice."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from expunge.audits.parts.logistic_probe import ProbeAccuracy, probe_accuracy
from expunge.data.batches import collate, length_batches, pad_id
from expunge.data.encode import Example, encode_all, encode_prompt
from expunge.data.template import Style, Template
from expunge.errors import InputError
from expunge.evaluation.generation import input_device
from expunge.models.anatomy import decoder_layers
from expunge.models.halves import Halves
from expunge.models.limits import max_tokens
from expunge.models.prompt_lengths import prompt_lengths
from expunge.models.state import evaluating
from expunge.requests.rows import Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.methods.interface import Erasure

_ROWS = 64
_TOKENS = 4096  # padded tokens of a forward
_LISTED = 5


@dataclass(frozen=True)
class Readings:
    """What a probe reads out of the model as it was audited, and out of the target without the erasure (None where
    there was none to leave out)."""

    audited: ProbeAccuracy
    target: ProbeAccuracy | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"audited": self.audited.as_dict(), "target": None if self.target is None else self.target.as_dict()}


def linear_probe(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    erasure: Erasure | None = None,
    groups: Sequence[str] | None = None,
    splits: int = 10,
    seed: int = 0,
    template: Style = "auto",
    max_length: int = 2048,
) -> Readings:
    """Fit logistic regressions on half the rows' logits, and see whether they tell the right option of the other half.

    A model may no longer say an answer that its logits still hold; an erasure that hides no more than the top of them
    is found so. In each half the probe reads either the logits of the whole vocabulary or those of the tokens with
    which options begin, whichever does better within it. After the probes of Li et al., "The WMDP Benchmark"
    (arXiv:2403.03218), and Liu et al., "Large Language Model Unlearning via Embedding-Corrupted Prompts"
    (arXiv:2406.07933). The halves, the regularisation and the standard error are those of
    :func:`~expunge.audits.parts.logistic_probe.probe_accuracy`.

    Args:
        model: the target, or with no ``erasure`` the model to audit as it stands.
        rows: multiple-choice questions, ``answer`` and ``wrong_answers`` of each its options. An option means the same
            in all rows that have it, as letters do.
        erasure: is applied to ``model``; the target's own probe, on the same halves, then stands beside.
        groups: what each row asks for, where several ask for the same (one fact with options drawn anew): without it a
            probe may recognise questions that it was fitted on, in a model that never knew the answers too.
        splits: random halves, 2 at least.
        max_length: of a prompt, in tokens; a longer one is an error.

    Raises:
        InputError: rows without wrong answers, or options that are right too rarely: all of them in one error.
        EncodingError: a prompt that is too long.
    """
    check_options(rows)
    right = [row.answer for row in rows]
    options = [(row.answer, *row.wrong_answers) for row in rows]
    own = first_tokens(tokenizer, Template.of(tokenizer, template), rows)

    def probed(context: Any) -> ProbeAccuracy:
        with context:
            logits = prompt_logits(model, tokenizer, rows, template=template, max_length=max_length)
        views = {"options": logits[:, own], "vocabulary": logits}
        return probe_accuracy(views, right, options, groups=groups, splits=splits, seed=seed)

    if erasure is None:
        return Readings(probed(nullcontext()))
    return Readings(probed(erasure.applied(model)), probed(nullcontext()))


def prompt_logits(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    template: Style = "auto",
    max_length: int = 2048,
) -> np.ndarray:
    """[n, V] float32 the next-token logits at the end of each row's prompt, with whatever is applied to the model."""
    return _at_prompt_ends(model, tokenizer, rows, (), template, max_length)[0]


def prompt_states(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    template: Style = "auto",
    max_length: int = 2048,
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`prompt_logits` [n, V] and, from the same forwards, the outputs of all layers there: [L, n, H] float32."""
    layers = [layer for _, layer in decoder_layers(model)]
    return _at_prompt_ends(model, tokenizer, rows, layers, template, max_length)


def _at_prompt_ends(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    layers: Sequence[nn.Module],
    template: Style,
    max_length: int,
) -> tuple[np.ndarray, np.ndarray]:
    rendering = Template.of(tokenizer, template)
    length = max_tokens(model, max_length)
    prompts = [encode_prompt(tokenizer, rendering, row, max_length=length) for row in rows]
    halves, device = Halves(model), input_device(model)
    logits = np.empty((len(rows), halves.vocabulary), dtype=np.float32)
    kept: list[list[np.ndarray]] = [[] for _ in layers]
    order: list[int] = []
    passed: dict[int, torch.Tensor] = {}
    with ExitStack() as stack, torch.no_grad():
        stack.enter_context(evaluating(model))
        for number, layer in enumerate(layers):
            stack.callback(layer.register_forward_hook(partial(_keep, passed, number)).remove)
        for places in length_batches([len(prompt) for prompt in prompts], _ROWS, _TOKENS):
            some = [prompts[place] for place in places]
            examples = [Example(prompt, len(prompt), False, len(prompt)) for prompt in some]
            batch = collate(examples, pad_id(tokenizer)).to(device)
            ends = torch.tensor([len(prompt) - 1 for prompt in some])
            with prompt_lengths(len(prompt) for prompt in some):
                states = halves.states(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
            for own, number in zip(kept, sorted(passed), strict=True):
                own.append(_last(passed[number], ends).float().cpu().numpy())
            logits[places] = halves.logits(_last(states, ends)).cpu().numpy()
            order += places
    back = np.argsort(order)
    return logits, np.stack([np.concatenate(own)[back] for own in kept]) if kept else np.empty((0, len(rows), 0))


def _keep(passed: dict[int, torch.Tensor], number: int, _: nn.Module, __: Any, output: Any) -> None:
    # some models go on to write over what passes
    passed[number] = (output[0] if isinstance(output, tuple) else output).clone()


def _last(states: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    return states[torch.arange(len(ends), device=states.device), ends.to(states.device)]


def first_tokens(tokenizer: PreTrainedTokenizerBase, rendering: Template, rows: Sequence[Row]) -> list[int]:
    """The tokens with which the options that are right somewhere begin."""
    first = list({row.answer: row for row in rows}.values())
    examples = encode_all(tokenizer, rendering, first, max_length=sys.maxsize)
    return sorted({one.input_ids[one.answer_start] for one in examples})


def check_options(rows: Sequence[Row]) -> None:
    """Raise an :class:`~expunge.errors.InputError` that names the rows whose answer is no choice among options."""
    bad = [row.source or f"row {number}" for number, row in enumerate(rows) if not row.wrong_answers]
    if bad or not rows:
        which = f"{', '.join(bad[:_LISTED])}{', ..' if len(bad) > _LISTED else ''}" if bad else "there are none"
        raise InputError(
            f"{len(bad)} of {len(rows)} rows have no wrong answers ({which}), and a linear probe asks which of a row's "
            "options is right. Pass multiple-choice rows, with wrong_answers."
        )
