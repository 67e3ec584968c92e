"""Corrupting the embeddings of prompts that a guard flags, while a model reads them.

with guarding(model, guard):
    model.generate(**batch)  # rows that the guard flags are read corrupted, the others go on as they were
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from expunge.errors import ConfigError, ModelError
from expunge.guards.corruptions import Corruption, corrupt
from expunge.guards.prompts import Prompt, ids_of, is_judging, judging, scored_lengths, texts
from expunge.models.forwards import Passing, by_name, watching
from expunge.models.generating import (
    Original,
    Part,
    around_generate,
    asked_by_name,
    real_tokens,
    refuse_learned_prompts,
)
from expunge.models.halves import Halves
from expunge.models.prompt_lengths import known_prompt_lengths
from expunge.models.taps import forget_compiled
from expunge.models.uncopied import Uncopied


@dataclass(frozen=True)
class Flagged:
    """What is to be done to a prompt: which of its tokens are corrupted (a truth value for each), and how."""

    tokens: Sequence[bool]
    corruption: Corruption


class Guard(Protocol):
    """Decides which prompts are corrupted."""

    def plan(self, prompts: Sequence[Prompt]) -> Sequence[Flagged | None]:
        """What is to be done to each of the prompts, which hold one token at least; None: it is left alone.

        The model may be run in here: its embeddings are not corrupted then.
        """


@contextmanager
def guarding(model: Any, guard: Guard, *, assistant_header: Sequence[int] | None = None) -> Iterator[None]:
    """Inside, prompts that ``guard`` flags reach ``model`` corrupted; afterwards nothing of it is left, also after an
    exception.

    - ``model.generate``: the guard is asked once about all its prompts, whatever beams or returned sequences become of
      them. Flagged tokens are corrupted wherever the prompt is read: whole, in chunks, again at every step without a
      cache. Answer tokens never are. Where a cache is continued the guard is asked about the ids that are passed, and
      those of them are corrupted that are not in the cache.
    - any other forward is scored: the guard is asked about the prompts of all rows at once, which end where
      :func:`~expunge.models.prompt_lengths.prompt_lengths` says; else before the first token that ``labels`` score;
      else with the last occurrence of ``assistant_header``; else, or where that is not found, the whole row but its
      last token is its prompt. What continues a cache is answer, and left alone. ``labels`` are seen where the model is
      called, not where ``model.forward`` is.
    - rows that are passed as ``inputs_embeds`` are read by looking their embeddings up.

    Several guards on one model may be entered and lifted in any order, beside abstentions; of those that flag a row the
    first one entered corrupts it. Tokens that nobody flags pass bit for bit.

    ``type(model).generate(model, ..)`` goes around what is replaced here, and its forwards are scored. What
    ``torch.compile`` holds is thrown away on entry and exit, as :func:`~expunge.models.abstention.abstaining` does.

    Args:
        assistant_header: the tokens with which the chat template opens an answer.

    Raises:
        ModelError: the model has no head, or a learned prompt; while running: texts are packed into one row, or
            ``inputs_embeds`` that are no tokens' embeddings.
        ConfigError: while running: the guard's plan does not fit the prompts or the embeddings.
    """
    refuse_learned_prompts(model)
    halves = Halves(model)
    applied = _Applied(guard, tuple(assistant_header or ()))
    with _LOCK:
        guards = _GUARDS.setdefault(model, _Guards(model, halves))
        guards.enter(applied)
    try:
        yield
    finally:
        with _LOCK:
            guards.leave(applied)
            if not guards.every:
                del _GUARDS[model]


@dataclass(frozen=True, eq=False)
class _Applied:
    guard: Guard
    header: Prompt

    def plan(self, prompts: Sequence[Prompt]) -> list[Flagged | None]:
        """The guard's plan for prompts of which some may hold no token."""
        there = [prompt for prompt in prompts if prompt]
        plan = list(self.guard.plan(there)) if there else []
        kind = type(self.guard).__name__
        if len(plan) != len(there):
            raise ConfigError(f"{kind}.plan gave {len(plan)} answers about {len(there)} prompts. Give one for each.")
        bad = [
            f"prompt {number}: {len(one.tokens)} for {len(prompt)}"
            for number, (one, prompt) in enumerate(zip(plan, there, strict=True))
            if one is not None and len(one.tokens) != len(prompt)
        ]
        if bad:
            raise ConfigError(
                f"{kind}.plan flags other numbers of tokens than its prompts have ({'; '.join(bad)}). Give a truth "
                "value for each token."
            )
        rest = iter(plan)
        return [next(rest) if prompt else None for prompt in prompts]


@dataclass(frozen=True, eq=False)
class _Plan:
    """Rows of a batch that are corrupted: their places there, tokens [F, S], and how."""

    rows: list[int]
    flagged: Tensor
    corruptions: list[Corruption]

    def over(self, embeddings: Tensor, positions: Tensor, ids: Tensor | None) -> Tensor:
        """The rows' embeddings [F, S, D], corrupted."""
        return corrupt(embeddings, self.flagged.to(embeddings.device), positions, ids, self.corruptions)

    @classmethod
    def of(
        cls,
        every: Sequence[_Applied],
        rows: Sequence[Prompt],
        lengths: Callable[[Prompt], Sequence[int]],
        real: Tensor,
    ) -> _Plan | None:
        """What the guards say about the prompts with which ``rows`` begin; None: nothing is corrupted.

        Args:
            lengths: of the rows' prompts, where a guard names an assistant header.
            real: [B, S] which tokens of the rows are no padding.
        """
        chosen: list[Flagged | None] = [None] * len(rows)
        for applied in every:
            prompts = [row[:length] for row, length in zip(rows, lengths(applied.header), strict=True)]
            # of several guards the first one to flag a row has it
            asked = [prompt if one is None else () for prompt, one in zip(prompts, chosen, strict=True)]
            chosen = [one or other for one, other in zip(chosen, applied.plan(asked), strict=True)]
        there = [(row, one) for row, one in enumerate(chosen) if one is not None and any(one.tokens)]
        if not there:
            return None
        places = [row for row, _ in there]
        flags = torch.zeros(real.shape, dtype=torch.bool)
        real = real.cpu()
        for row, one in there:
            flags[row, real[row].nonzero()[: len(one.tokens), 0]] = torch.tensor([bool(flag) for flag in one.tokens])
        return cls(places, flags[places], [one.corruption for _, one in there])


class _Session:
    """One ``generate``: the corrupted embeddings of its flagged prompts, put in wherever these are read.

    Args:
        ids: [P, L] the prompts' tokens.
        real: [P, L] which of them are no padding.
        before: real tokens of each prompt [P, 1] that are in the cache and not among ``ids``.
        start: the place in the cache of the first column.
    """

    def __init__(self, plan: _Plan, ids: Tensor, real: Tensor, before: Tensor | int = 0, start: int = 0) -> None:
        self.plan, self.start = plan, start
        self.prompts, self.width = ids.shape
        self.ids = ids[plan.rows]
        positions = real.cumsum(1) - 1 + before
        self.positions = torch.where(real, positions, -1)[plan.rows]
        self.was_read = False
        self._corrupted: Tensor | None = None

    def put(self, values: Tensor, passing: Passing, table: Callable[[Tensor], Tensor]) -> Tensor | None:
        """[B, S, D] with the corrupted embeddings in it; None where there are none to put."""
        first = passing.seen - self.start
        rows, width = values.shape[:2]
        each, rest = divmod(rows, self.prompts)  # beams or returned sequences of a prompt
        columns = slice(max(first, 0), min(first + width, self.width))
        if first < 0 or rest or columns.start >= columns.stop:
            return None
        places = torch.tensor([row * each + i for row in self.plan.rows for i in range(each)], device=values.device)
        here = slice(0, columns.stop - columns.start)
        wanted = self.ids[:, columns].repeat_interleave(each, 0)
        ids = passing.ids
        if ids is not None and not bool((ids[places.to(ids.device), here] == wanted.to(ids.device)).all()):
            return None  # not the prompt: a processor's own forward (guidance)
        self.was_read = True
        if self._corrupted is None:
            whole = first == 0 and width >= self.width
            clean = values[places[::each], : self.width] if whole else table(self.ids)
            self._corrupted = self.plan.over(clean, self.positions, self.ids)
        flagged = self.plan.flagged[:, columns].repeat_interleave(each, 0).to(values.device)
        put = self._corrupted[:, columns].repeat_interleave(each, 0).to(values)
        result = values.clone()
        result[places, here] = torch.where(flagged[..., None], put, values[places, here])
        return result


class _Local(threading.local):
    generating: bool = False
    session: _Session | None = None
    labels: Tensor | None = None
    read: Passing | None = None


class _Guards(Uncopied):
    """What all guards on one model share: the watch, the hooks, and the wrapped ``generate``."""

    def __init__(self, model: Any, halves: Halves) -> None:
        self.model, self.body = model, halves.body
        self.table: nn.Module = model.get_input_embeddings()
        self.every: list[_Applied] = []
        self._signature = inspect.signature(self.body.forward)
        # a PEFT wrapper does not call the model that it holds as a module
        owner = next(module for module in model.modules() if any(part is halves.head for part in module.children()))
        self._called = {id(module): module for module in (model, owner)}.values()
        self._shared = ExitStack()
        self._local = _Local()

    def enter(self, applied: _Applied) -> None:
        self.every.append(applied)
        forget_compiled()
        if len(self.every) == 1:
            self._install()

    def leave(self, applied: _Applied) -> None:
        self.every.remove(applied)
        if not self.every:
            self._shared.close()
        forget_compiled()

    def _install(self) -> None:
        shared = self._shared
        self.watch = shared.enter_context(watching(self.model))
        shared.callback(self.body.register_forward_pre_hook(self._before_body, with_kwargs=True).remove)
        shared.callback(self.table.register_forward_hook(self._after_table).remove)
        for module in self._called:
            shared.callback(module.register_forward_pre_hook(self._before_call, with_kwargs=True).remove)
            shared.callback(module.register_forward_hook(self._after_call, always_call=True).remove)
        shared.enter_context(around_generate(self.model, self._generate, Part.PROMPTS))

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _before_call(self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        given = by_name(inspect.signature(module.forward), arguments, named) if arguments else named
        self._local.labels = given.get("labels")

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _after_call(self, *_: Any) -> None:
        self._local.labels = None

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _before_body(self, _: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        passing = self._passing(encoded=True)
        if passing is None:
            return None
        given = by_name(self._signature, arguments, named)
        changed = self._changed(passing, given["inputs_embeds"])
        return None if changed is None else ((), {**given, "inputs_embeds": changed})

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _after_table(self, _: nn.Module, __: Any, embeddings: Tensor) -> Tensor | None:
        passing = self._passing(encoded=False)
        return None if passing is None else self._changed(passing, embeddings)

    def _passing(self, *, encoded: bool) -> Passing | None:
        """The running forward if its tokens are read now; GPT-2 looks up token types in the same table afterwards."""
        local, passing = self._local, self.watch.current
        if passing is None or is_judging() or passing is local.read or encoded is not (passing.ids is None):
            return None
        local.read = passing
        if passing.packed:
            raise ModelError(
                "several texts are packed into one row (generate_batch, or a batch without padding), so that a guard "
                "cannot tell its prompts. Pass them as rows of a padded batch."
            )
        return passing

    def _changed(self, passing: Passing, embeddings: Tensor) -> Tensor | None:
        """The embeddings [B, S, D] of a forward with the corrupted ones in them."""
        if self._local.generating:
            session = self._local.session
            return None if session is None else session.put(embeddings, passing, self._embedded)
        return None if passing.seen else self._scored(passing, embeddings)

    def _scored(self, passing: Passing, embeddings: Tensor) -> Tensor | None:
        labels, real = self._local.labels, passing.real
        with judging():
            ids = ids_of(embeddings, real, self.table) if passing.ids is None else passing.ids
            rows = texts(ids, real)
            said = known_prompt_lengths(len(rows))
            plan = _Plan.of(self.every, rows, lambda header: scored_lengths(rows, real, said, labels, header), real)
        if plan is None:
            return None
        result = embeddings.clone()
        result[plan.rows] = plan.over(embeddings[plan.rows], passing.positions[plan.rows], ids[plan.rows])
        return result

    def _generate(self, original: Original, arguments: Sequence[Any], named: dict[str, Any]) -> Any:
        """``original`` in a session of its prompts."""
        local = self._local
        if local.generating or is_judging():  # a model may draft for itself while it generates
            return original(*arguments, **named)
        session = self._session(asked_by_name(arguments, named))
        local.generating, local.session = True, session
        try:
            output = original(*arguments, **named)
        finally:
            local.generating, local.session = False, None
        if session is not None and not session.was_read:
            raise ModelError(
                "a guard flagged prompts that the model then did not read as they were passed to generate(..), so that "
                "nothing was corrupted. Leave out what changes the prompts on their way (token healing, a hook)."
            )
        return output

    def _session(self, asked: Mapping[str, Any]) -> _Session | None:
        """None: no prompt is corrupted."""
        embeddings, mask, cache = (asked.get(n) for n in ("inputs_embeds", "attention_mask", "past_key_values"))
        ids: Any = asked.get("input_ids") if asked.get("inputs") is None else asked["inputs"]
        if embeddings is not None:  # no padding can be told from them
            ids = torch.full(embeddings.shape[:2], -1, device=embeddings.device)
        elif ids is None or not ids.shape[1]:  # generate begins with the first token there is
            return None
        real = real_tokens(self.model, asked, ids)
        with judging():
            if embeddings is not None:
                ids = ids_of(embeddings, real, self.table)
            rows = texts(ids, real)
            plan = _Plan.of(self.every, rows, lambda _: [len(row) for row in rows], real)
        if plan is None:
            return None
        if embeddings is not None or mask is None or mask.shape[1] == ids.shape[1]:
            return _Session(plan, ids, real)
        # a text is continued of which the new tokens are passed, with a mask over all
        before = (mask != 0)[:, : mask.shape[1] - ids.shape[1]].sum(1, keepdim=True)
        return _Session(plan, ids, real, before, 0 if cache is None else int(cache.get_seq_length()))

    @torch.no_grad()
    def _embedded(self, ids: Tensor) -> Tensor:
        with judging():
            embeddings: Tensor = self.table(ids)
        return embeddings


_GUARDS: dict[nn.Module, _Guards] = {}
_LOCK = threading.Lock()
