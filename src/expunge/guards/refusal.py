"""Prompts that are declined: the row gives a refusal's tokens, whatever the model would say.

with declining(model, judge, end_token=tokenizer.eos_token_id):
    model.generate(**batch)  # rows whose prompt the judge declines give its refusal, the others go on
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList

from expunge.errors import ModelError
from expunge.guards.prompts import Prompt, ids_of, is_judging, judging, scored_lengths, texts
from expunge.models.forwards import Passing, by_name, watching
from expunge.models.generating import (
    Original,
    Part,
    around_generate,
    asked_by_name,
    real_tokens,
    refuse_learned_prompts,
    setting,
    tokens_of,
)
from expunge.models.halves import Halves
from expunge.models.prompt_lengths import known_prompt_lengths
from expunge.models.taps import forget_compiled
from expunge.models.uncopied import Uncopied

Judge = Callable[[Sequence[Prompt]], Sequence[tuple[int, ...] | None]]
"""For each prompt the refusal's tokens, without an end token; None: it is answered."""


@contextmanager
def declining(
    model: Any, judge: Judge, *, end_token: int, assistant_header: Sequence[int] | None = None
) -> Iterator[None]:
    """Inside, prompts that ``judge`` declines are not answered; afterwards nothing of it is left.

    - ``model.generate``: the judge is asked once about all prompts. A declined row, in all its beams and returned
      sequences, gives the refusal and then the end token: ``end_token`` if it is among those of the generation config,
      or if that has none, else the first of these.
    - any other forward is scored: from the last token of a declined row's prompt on every next token is equally
      likely. Prompts end where they do for :func:`~expunge.guards.prefill.guarding`, labels aside. A loop that decodes
      with a cache of its own stays declined while it passes the same cache object.

    Rows that are passed as ``inputs_embeds`` are read by looking their embeddings up.

    Raises:
        ModelError: the model has a learned prompt; while running, texts are packed into one row, or ``inputs_embeds``
            that are no tokens' embeddings.
    """
    refuse_learned_prompts(model)
    one = _Declining(model, judge, end_token, tuple(assistant_header or ()))
    with ExitStack() as stack:
        forget_compiled()
        stack.callback(forget_compiled)
        body = one.halves.body
        # before a guard that corrupts puts other embeddings in their place
        stack.callback(body.register_forward_pre_hook(one.before_body, with_kwargs=True, prepend=True).remove)
        stack.callback(body.register_forward_hook(one.after_body).remove)  # before the watch clears
        one.watch = stack.enter_context(watching(model))
        head = one.halves.head
        if any(name.endswith("bias") for name, _ in head.named_parameters()):
            stack.callback(head.register_forward_hook(one.after_head).remove)
        stack.enter_context(around_generate(model, one.generate, Part.PROMPTS))
        yield


class _Local(threading.local):
    generating: bool = False
    embeddings: Tensor | None = None


class _Declining(Uncopied):
    watch: Any

    def __init__(self, model: Any, judge: Judge, end_token: int, header: Prompt) -> None:
        self.model, self.judge, self.end_token, self.header = model, judge, end_token, header
        self.halves = Halves(model)
        self._signature = inspect.signature(self.halves.body.forward)
        self._local = _Local()
        self._caches: weakref.WeakKeyDictionary[Any, Tensor] = weakref.WeakKeyDictionary()

    def generate(self, original: Original, arguments: Sequence[Any], named: dict[str, Any]) -> Any:
        local = self._local
        if local.generating or is_judging():  # a model may draft for itself while it generates
            return original(*arguments, **named)
        asked = asked_by_name(arguments, named)
        declined, columns = self._declined(asked)
        local.generating = True
        try:
            if not any(tokens is not None for tokens in declined):
                return original(*arguments, **named)
            ends = tokens_of(setting(self.model, asked, "eos_token_id"))
            end = self.end_token if self.end_token in ends or not ends else ends[0]
            own = _Decline([None if tokens is None else (*tokens, end) for tokens in declined], columns)
            processors = LogitsProcessorList([*(asked.get("logits_processor") or ()), own])
            if len(arguments) > 2:
                return original(*arguments[:2], processors, *arguments[3:], **named)
            return original(*arguments, **{**named, "logits_processor": processors})
        finally:
            local.generating = False

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def before_body(self, _: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if not self._local.generating and not is_judging():
            self._local.embeddings = by_name(self._signature, arguments, named).get("inputs_embeds")

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def after_body(self, _: nn.Module, __: Any, output: Any) -> Any:
        passing: Passing | None = self.watch.current
        local = self._local
        if passing is None or local.generating or is_judging():
            return None
        if passing.packed:
            raise ModelError(
                "several texts are packed into one row (generate_batch, or a batch without padding), so that a guard "
                "cannot tell its prompts. Pass them as rows of a padded batch."
            )
        several = isinstance(output, tuple)
        states = output[0] if several else output.last_hidden_state
        cache = passing.cache if passing.cache is not None else getattr(output, "past_key_values", None)
        if passing.seen:
            rows = None if cache is None else self._caches.get(cache)
            if rows is None or len(rows) != len(states):
                return None
            blank = rows[:, None].expand(states.shape[:2])
        else:
            blank = self._blank(passing, local.embeddings)
            local.embeddings = None
            if cache is not None:
                self._caches[cache] = blank.any(1)
        states = states.masked_fill(blank.to(states.device)[..., None], 0)
        if several:
            return (states, *output[1:])
        output.last_hidden_state = states
        return output

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def after_head(self, _: nn.Module, arguments: tuple[Any, ...], logits: Tensor) -> Tensor | None:
        """A bias must not speak where the states are zero."""
        if self._local.generating or is_judging():
            return None
        return logits.masked_fill((arguments[0] == 0).all(-1, keepdim=True).to(logits.device), 0)

    def _blank(self, passing: Passing, embeddings: Tensor | None) -> Tensor:
        """[B, S] where the rows of a scored forward, passed as ids or ``embeddings``, say nothing."""
        real, ids = passing.real, passing.ids
        if ids is None:
            assert embeddings is not None
            with judging():
                ids = ids_of(embeddings, real, self.model.get_input_embeddings())
        rows = texts(ids, real)
        lengths = scored_lengths(rows, real, known_prompt_lengths(len(rows)), None, self.header)
        declined = self._judged([row[:length] for row, length in zip(rows, lengths, strict=True)])
        ends = [
            length - 1 if tokens is not None else real.shape[1]
            for length, tokens in zip(lengths, declined, strict=True)
        ]
        return real & (passing.positions >= torch.tensor(ends, device=real.device)[:, None])

    def _declined(self, asked: Mapping[str, Any]) -> tuple[list[tuple[int, ...] | None], int]:
        """What is said of each prompt of a call of ``generate``, and how many columns of ids its prompts take."""
        ids: Any = asked.get("input_ids") if asked.get("inputs") is None else asked["inputs"]
        embeddings = asked.get("inputs_embeds")
        if embeddings is not None:
            columns = 0 if ids is None else ids.shape[1]
            ids = torch.full(embeddings.shape[:2], -1, device=embeddings.device)
            real = real_tokens(self.model, asked, ids)
            return self._judged(texts(ids_of(embeddings, real, self.model.get_input_embeddings()), real)), columns
        if ids is None or not ids.shape[1]:  # generate begins with the first token there is
            return [], 0
        return self._judged(texts(ids, real_tokens(self.model, asked, ids))), int(ids.shape[1])

    def _judged(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...] | None]:
        there = [prompt for prompt in prompts if prompt]
        with judging():
            found = iter(self.judge(there) if there else ())
        return [next(found) if prompt else None for prompt in prompts]


class _Decline(LogitsProcessor):  # type: ignore[misc]
    """Leaves declined rows one token to choose, the next of what they are to say."""

    def __init__(self, said: Sequence[tuple[int, ...] | None], columns: int) -> None:
        self.said, self.columns = said, columns

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        each = max(len(input_ids) // len(self.said), 1)  # beams or returned sequences of a prompt
        step = input_ids.shape[1] - self.columns
        scores = scores.clone()
        for row in range(len(input_ids)):
            tokens = self.said[row // each]
            if tokens is not None and step < len(tokens):  # generate pads what has ended
                scores[row] = -torch.inf
                scores[row, tokens[step]] = 0
        return scores
