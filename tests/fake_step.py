"""Sides and steps made from explicit logits, so that a loss can be checked against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from expunge.teachers.sparse_rows import sparse_rows
from expunge.training.step import Logits, Side, Step, Totals
from expunge.training.teaching import Taught


class Whole(Logits):
    """All logits in memory; ``chunk`` tokens are handed to a function at a time."""

    def __init__(
        self, logits: Tensor, labels: Tensor, reference: Tensor | None, chunk: int, taught: Taught | None = None
    ) -> None:
        self.logits, self.labels, self.reference, self.chunk, self.taught = logits, labels, reference, chunk, taught

    def per_token(self, function: Any, *, reference: bool, teacher: bool = False) -> Tensor:
        given = [self.logits, self.labels]
        if reference:
            assert self.reference is not None, "the test gave no reference logits"
            given.append(self.reference)
        if not len(self.labels):
            return self.logits.sum(-1)
        parts = [list(part) for part in zip(*(tensor.split(self.chunk) for tensor in given), strict=True)]
        if teacher:
            assert self.taught is not None, "the test gave no teacher"
            for number, part in enumerate(parts):
                part.append(self.taught[number * self.chunk : (number + 1) * self.chunk])  # type: ignore[arg-type]
        return torch.cat([function(*part) for part in parts])


def side(
    logits: Tensor,
    labels: list[int] | Tensor,
    lengths: list[int] | None = None,
    *,
    reference: Tensor | None = None,
    reference_logp: Tensor | None = None,
    owner: list[int] | None = None,
    totals: tuple[float, ...] | None = None,
    chunk: int = 2,
    taught: Taught | None = None,
) -> Side:
    """Rows of ``lengths`` answer tokens (one row unless given) with logits [N, V]; ``totals`` are the tokens and rows
    (and taught tokens) of the whole accumulated batch, by default just these. ``reference_logp`` is worked out from
    ``reference``; ``taught`` is what a teacher says of the tokens."""
    labels = torch.as_tensor(labels, dtype=torch.long)
    lengths = [len(labels)] if lengths is None else lengths
    assert sum(lengths) == len(labels) == len(logits)
    rows = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths, dtype=torch.long))
    places = [torch.arange(length) for length in lengths]
    if reference is not None and reference_logp is None:
        chosen = reference.log_softmax(-1)[torch.arange(len(labels)), labels]
        reference_logp = torch.zeros(len(lengths), dtype=chosen.dtype).index_add(0, rows, chosen)
    return Side(
        rows=rows,
        labels=labels,
        positions=torch.cat(places) if places else labels,
        lengths=torch.tensor(lengths, dtype=torch.long),
        totals=Totals(*(totals or (len(labels), len(lengths)))),
        logits=Whole(logits, labels, reference, chunk, taught),
        owner=None if owner is None else torch.tensor(owner, dtype=torch.long),
        reference=reference_logp,
    )


def scored(logps: list[float] | Tensor, lengths: list[int] | None = None, **given: Any) -> Side:
    """A side whose tokens have these log-probabilities, for losses that read nothing else."""
    values = torch.as_tensor(logps, dtype=torch.float32) if not isinstance(logps, Tensor) else logps
    made = side(torch.zeros(len(values), 2), [0] * len(values), lengths, **given)
    made.__dict__["logps"] = values  # where the cached property keeps them
    return made


def state_side(
    states: Tensor,
    rows: list[int],
    *,
    reference: Tensor | None = None,
    totals: tuple[float, float] | None = None,
) -> Side:
    """A side of a method that reads a layer: states [M, H] of tokens that belong to ``rows``."""
    count = max(rows, default=-1) + 1
    nothing = torch.zeros(0, dtype=torch.long)
    return Side(
        rows=nothing,
        labels=nothing,
        positions=nothing,
        lengths=torch.ones(count, dtype=torch.long),
        totals=Totals(*(totals or (len(rows), count))),
        state_values=states,
        state_rows=torch.tensor(rows, dtype=torch.long),
        reference_state_values=reference,
    )


def empty(vocabulary: int = 2, *, grad: bool = True, reference: bool = True) -> Side:
    """A side of no rows in a batch that has ten tokens in two rows elsewhere."""
    logits = torch.zeros(0, vocabulary, requires_grad=grad)
    given = torch.zeros(0, vocabulary) if reference else None
    return side(logits, [], [], reference=given, owner=[], totals=(10, 2))


def step(
    forget: Side | None = None,
    alternative: Side | None = None,
    retain: Side | None = None,
    *,
    epoch: int = 0,
    state: dict[str, float] | None = None,
) -> Step:
    """A step of these sides; those that are not given are empty."""
    return Step(forget or empty(), alternative or empty(), retain or empty(), epoch, state or {})


def made_logits(tokens: int, vocabulary: int = 7, *, seed: int = 0, scale: float = 2.0) -> Tensor:
    """[tokens, vocabulary] float64 logits that want a gradient."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(tokens, vocabulary, generator=generator, dtype=torch.float64) * scale
    return values.requires_grad_()


def total(terms: dict[str, Tensor]) -> Tensor:
    """What is minimised."""
    return torch.stack(list(terms.values())).sum()


def gradient(terms: dict[str, Tensor], of: Tensor) -> Tensor:
    """The gradient of all terms together."""
    (found,) = torch.autograd.grad(total(terms), of)
    return found


@dataclass(frozen=True)
class Rows:
    """Random rows of all three sides: leaves that want a gradient, labels, and the frozen target's logits."""

    leaves: dict[str, list[Tensor]]
    labels: dict[str, list[Tensor]]
    references: dict[str, list[Tensor]]
    owner: list[int]

    @classmethod
    def made(cls, *, vocabulary: int = 7, scale: float = 2.0, seed: int = 0) -> Rows:
        """Three forget rows, two alternatives of each, and three retain rows, some of one token."""
        lengths = {"forget": [3, 1, 2], "alternative": [2, 1, 4, 2, 1, 3], "retain": [1, 4, 2]}
        generator = torch.Generator().manual_seed(seed)

        def drawn(count: int) -> Tensor:
            return torch.randn(count, vocabulary, generator=generator, dtype=torch.float64) * scale

        leaves = {name: [drawn(count).requires_grad_() for count in some] for name, some in lengths.items()}
        labels = {
            name: [torch.randint(vocabulary, (count,), generator=generator) for count in some]
            for name, some in lengths.items()
        }
        references = {name: [drawn(count) for count in some] for name, some in lengths.items()}
        return cls(leaves, labels, references, [0, 0, 1, 1, 2, 2])

    def step(self, method: Any, part: tuple[int, ...] = (0, 1, 2), *, epoch: int = 0) -> Step:
        """What ``method`` sees of these forget and retain rows, as a part of a batch that holds all of them."""
        sides = {name: self._side(method, name, part, epoch) for name in self.leaves}
        return step(**sides, epoch=epoch, state=method.initial_state())

    def _side(self, method: Any, name: str, part: tuple[int, ...], epoch: int) -> Side:
        vocabulary = self.leaves["forget"][0].shape[1]
        chosen = list(part) if name != "alternative" else [i for i, row in enumerate(self.owner) if row in part]
        if name not in method.sides(epoch) or not chosen:
            return empty(vocabulary)
        leaves, references = ([some[name][i] for i in chosen] for some in (self.leaves, self.references))
        whole = self.leaves[name]
        if method.reads_layer is not None:  # the same numbers, read as states
            rows = [place for place, leaf in enumerate(leaves) for _ in leaf]
            return state_side(torch.cat(leaves), rows, reference=torch.cat(references), totals=(1, len(whole)))
        return side(
            torch.cat(leaves),
            torch.cat([self.labels[name][i] for i in chosen]),
            [len(leaf) for leaf in leaves],
            reference=torch.cat(references),
            owner=[part.index(self.owner[i]) for i in chosen] if name == "alternative" else None,
            totals=(sum(map(len, whole)), len(whole), sum(map(len, whole)) - 1),
            taught=self._taught(torch.cat(references), chosen) if name == "forget" else None,
        )

    @staticmethod
    def _taught(references: Tensor, chosen: list[int]) -> Taught:
        """A teacher that says what the frozen target does, of every token but the first of the first row."""
        at = torch.arange(len(references))
        if chosen[0] == 0:
            at[0] = -1
        return Taught(sparse_rows(references.float().softmax(-1), 3)[0], at)

    def gradients(self, loss: Tensor) -> list[Tensor]:
        """The gradient of every leaf, zeros where the loss does not depend on it."""
        flat = [leaf for some in self.leaves.values() for leaf in some]
        found = torch.autograd.grad(loss, flat, allow_unused=True)
        return [torch.zeros_like(leaf) if one is None else one for leaf, one in zip(flat, found, strict=True)]
