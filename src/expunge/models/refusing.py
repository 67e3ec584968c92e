"""One run of ``generate`` in which rows may abstain: where to look, and what a row that abstains emits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from expunge.models.forwards import Passing
from expunge.models.looking import Applied, Look, first_cube

Key = tuple[int, ...]
"""The number of a prompt and the tokens generated for it: what a row is known by, wherever beam search moves it and
however often a token is tried before it is taken."""


class Session:
    """One ``generate``: looks at each prompt's end and at the tokens after it, and says what abstaining rows emit.

    Args:
        every: the detectors; the first that detects a row wins.
        asked: the arguments of ``generate`` by name.
        ends: the end tokens of its generation config.
    """

    def __init__(self, every: Sequence[Applied], asked: Mapping[str, Any], ends: Sequence[int]) -> None:
        self._prompt = _Prompt.of(asked)
        self._stops = bool(ends)
        self._abstaining = [applied for applied in every if applied.detector.steer is None]
        self._refusals: list[tuple[tuple[int, ...], int]] = []  # of every cube: its tokens and the end token
        for applied in self._abstaining:
            end = applied.end_token if applied.end_token in ends or not ends else ends[0]
            self._refusals += [(tuple(tokens), end) for tokens in applied.detector.refusals]
        self._end: int | None = None  # how many places the prompt takes in the cache
        self._stop = 0  # where the last forward ended
        self._prefilling = True
        self._answered = False  # a token has been asked for since the last forward
        self._at_end: Tensor | None = None  # [B, C] what held the prompts' ends so far
        self._latest: tuple[int, Tensor, Tensor | None] | None = None  # first place, held [B, m, C], ids [B, S]
        self._found: _Found | None = None  # the same on the host, where anything was found
        self._progress: dict[Key, tuple[int, int]] = {}  # of abstaining rows: the cube, and how much they have emitted

    def look(self, passing: Passing) -> Look | None:
        """Where to look in a forward. None: it is not one of generate's own.

        The prompt may come in chunks, and tokens that are only tried may follow it.
        """
        if self._end is None:
            self._end = self._prompt.length + (0 if self._prompt.whole else passing.seen)
        elif passing.seen != self._stop if self._prefilling else not self._answered:
            return None  # a processor's own (guidance): it runs between generate's forward and the step
        rows, width = passing.positions.shape
        self._stop, self._answered = passing.seen + width, False
        inside = min(max(self._end - passing.seen, 0), width)  # how many of the columns are the prompt's
        if not inside:
            return Look(passing, None, passing.real.reshape(-1), width, scoring=False, steers=True)
        columns = torch.arange(inside, width, device=passing.positions.device).expand(rows, -1)
        if self._prefilling:
            # positions rise along a row: the largest is its last real token's
            columns = torch.cat([passing.positions[:, :inside].argmax(1, keepdim=True), columns], dim=1)
        places = columns + width * torch.arange(rows, device=columns.device)[:, None]
        counted = passing.real.gather(1, columns).reshape(-1)
        # a chunk's end is the prompt's in the last chunk only
        steers = not self._prefilling or self._stop >= self._end
        return Look(passing, places.reshape(-1), counted, columns.shape[1], scoring=False, steers=steers)

    def take(self, look: Look) -> None:
        """Keep what was found in a forward that has ended."""
        held = look.held_by(self._abstaining)
        self._latest = None
        if held is None:
            return
        if self._prefilling:
            if self._at_end is not None:  # of a row's chunks the last that holds a real token holds the prompt's end
                real = look.counted.view(held.shape[:2])[:, :1]
                held = torch.cat([torch.where(real, held[:, 0], self._at_end)[:, None], held[:, 1:]], dim=1)
            self._at_end = held[:, 0]
        self._latest = (self._stop - held.shape[1], held, look.passing.ids)

    def forced(self, ids: Tensor) -> dict[int, int]:
        """The token that each abstaining row of ``ids`` [B, L] emits next."""
        if self._end is None:  # a draft model runs before the first forward
            return {}
        if not self._answered:
            self._answered, self._prefilling = True, False
            self._found = None if self._latest is None else _Found.of(*self._latest, self._end)
        forced: dict[int, int] = {}
        if self._found is None and not self._progress:
            return forced
        each = max(len(ids) // self._prompt.rows, 1)  # beams or returned sequences of a prompt
        for row, tokens in enumerate(ids[:, self._prompt.columns :].tolist()):
            key = (row // each, *tokens)
            state = self._progress.get(key)
            if state is None:
                cube = -1 if self._found is None else self._found.cube(row, tokens, len(ids))
                if cube < 0:
                    continue
                state = (cube, 0)
            cube, emitted = state
            refusal, end = self._refusals[cube]
            if emitted > len(refusal) and self._stops:  # generate pads the row
                continue
            forced[row] = token = refusal[emitted] if emitted < len(refusal) else end
            self._progress[key] = state
            self._progress[(*key, token)] = (cube, emitted + 1)
        return forced


class Refusing(LogitsProcessor):  # type: ignore[misc]
    """Leaves the rows that abstain in a session one token to choose."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        forced = self.session.forced(input_ids)
        # a draft model's vocabulary may be another one; what it drafts is checked by the model
        forced = {row: token for row, token in forced.items() if token < scores.shape[-1]}
        if not forced:
            return scores
        rows, tokens = torch.tensor([*forced.items()], device=scores.device).unbind(1)
        scores = scores.clone()
        scores[rows] = -torch.inf
        scores[rows, tokens] = 0
        return scores


@dataclass(frozen=True)
class _Prompt:
    """Size of what ``generate`` was given: rows, columns of its ids, places that they or embeddings take, and whether
    these count from the cache's beginning (``whole``) or follow what is in it."""

    rows: int
    columns: int
    length: int
    whole: bool = True

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> _Prompt:
        ids = asked.get("inputs")
        ids = asked.get("input_ids") if ids is None else ids
        embeddings, mask = asked.get("inputs_embeds"), asked.get("attention_mask")
        columns = 0 if ids is None else int(ids.shape[1])
        if embeddings is not None:
            return cls(len(embeddings), columns, int(embeddings.shape[1]))
        if ids is None:  # generate begins with the first token there is
            return cls(1, 1, 1)
        return cls(len(ids), columns, columns, mask is None or mask.shape[1] == columns)


@dataclass(frozen=True)
class _Found:
    """What a forward found, on the host: [B, m] cubes (-1: none) of the m tokens that end the prompt or follow it, and
    the ids of those that follow it. ``start`` is the first one's place after the prompt, -1 for the prompt's end."""

    start: int
    cubes: list[list[int]]
    tried: list[list[int]]

    @classmethod
    def of(cls, place: int, held: Tensor, ids: Tensor | None, end: int) -> _Found | None:
        if not bool(held.any()):
            return None
        start = place - end
        follow = held.shape[1] - (start < 0)
        tried = [[] for _ in held] if ids is None else ids[:, ids.shape[1] - follow :].tolist()
        return cls(start, first_cube(held).tolist(), tried)

    def cube(self, row: int, tokens: list[int], rows: int) -> int:
        """The cube that holds the last of the tokens a row has generated, if it was run after just these."""
        column = len(tokens) - 1 - self.start
        if rows != len(self.cubes) or not 0 <= column < len(self.cubes[row]):
            return -1
        first = max(self.start, 0)
        return self.cubes[row][column] if tokens[first:] == self.tried[row][: len(tokens) - first] else -1
