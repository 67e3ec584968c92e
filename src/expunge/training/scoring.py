"""From one forward to a loss and its gradient, with the logits of a few answer tokens in memory at a time.

A loss is a sum over rows divided by totals (see ``WeightMethod.loss``). So the body runs once over a whole batch, and
the output head, the loss and both of their gradients over parts of its rows: what the head's weights and the body's
states owe to a part is added up, and the part's logits are dropped. Nothing is computed twice, and the gradient is that
of the whole batch. Only a row whose own logits exceed the limit is recomputed in pieces.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from expunge.errors import TrainingError
from expunge.models.halves import Forward, Halves, replaced
from expunge.training.head_gradient import Attached, Sink
from expunge.training.step import Logits, Side, Step, TokenFunction, Totals
from expunge.training.teaching import Taught

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from expunge.methods.weight_method import SideName, WeightMethod

SIDES: tuple[SideName, ...] = ("forget", "alternative", "retain")

LOGIT_BYTES = {"cpu": 2**25, "cuda": 2**30}
"""Float32 logits of one part of a batch. On a CPU larger parts fall out of the processor's caches; on a GPU smaller
ones leave it idle."""

_LEAST_TOKENS = 128  # with fewer, adding to a large head's gradient costs more than the products that are added


@dataclass(frozen=True)
class Layout:
    """Which row of a batch is what: its rows are forget rows, alternatives in the order of their forget rows, and
    retain rows. lengths [B] answer tokens of each; owner [A] the forget row of each alternative; counts (F, A, R),
    where F is 0 if the forget rows' own answers are not scored; forget_rows the number of them in either case; taught
    the answer tokens of each of the first rows that are taught a distribution."""

    lengths: tuple[int, ...]
    counts: tuple[int, int, int]
    owner: tuple[int, ...] = ()
    forget_rows: int = 0
    epoch: int = 0
    taught: tuple[int, ...] = ()

    @cached_property
    def token_starts(self) -> list[int]:
        """The first answer token of each row, and the number of all of them."""
        starts = [0]
        for length in self.lengths:
            starts.append(starts[-1] + length)
        return starts

    def rows_of(self, side: int) -> tuple[int, int]:
        """First row of a side and the first beyond it."""
        first = sum(self.counts[:side])
        return first, first + self.counts[side]

    def parts(self, tokens: int) -> Iterator[tuple[tuple[int, int], ...]]:
        """The batch in parts of at most so many answer tokens, each as (first row, end) of its three sides. A forget
        row stays with its alternatives, whatever their size."""
        f, a, r = (self.rows_of(side)[0] for side in range(3))
        units: list[tuple[int, int, int]] = []  # rows of the three sides that belong together
        for row in range(self.forget_rows):
            units.append((int(self.counts[0] > 0), self.owner.count(row), 0))
        units += [(0, 0, 1)] * self.counts[2]
        begin, end, held = [f, a, r], [f, a, r], 0
        for unit in units:
            size = sum(self.token_starts[end[side] + unit[side]] - self.token_starts[end[side]] for side in range(3))
            if held and held + size > tokens:
                yield tuple(zip(begin, end, strict=True))
                begin, held = list(end), 0
            end = [place + more for place, more in zip(end, unit, strict=True)]
            held += size
        if end != begin:
            yield tuple(zip(begin, end, strict=True))


@dataclass(frozen=True)
class Reference:
    """What the frozen target says about a batch: logps [B] summed per row; states [N, H] at its answer tokens with the
    ``head`` that belongs to them (None: the model's own, which is not trained); layer_states [M, H]. ``taught`` is what
    a teacher says about its answer tokens."""

    logps: Tensor | None = None
    states: Tensor | None = None
    head: Forward | None = None
    layer_states: Tensor | None = None
    taught: Taught | None = None


@dataclass(frozen=True)
class Scored:
    """A batch's loss, connected to the parameters, and the named quantities it is the sum of (detached); ``observed``
    is what else the method reported."""

    loss: Tensor
    terms: dict[str, Tensor]
    observed: dict[str, Tensor]


@dataclass(frozen=True)
class Batched:
    """Everything but the model that the loss of one batch depends on."""

    method: WeightMethod
    layout: Layout
    labels: Tensor
    totals: Mapping[SideName, Totals]
    reference: Reference = field(default_factory=Reference)
    state: Mapping[str, float] = field(default_factory=dict)
    most_tokens: int = 2**62

    @cached_property
    def _rows(self) -> Tensor:
        lengths = torch.tensor(self.layout.lengths, device=self.labels.device)
        return torch.arange(len(self.layout.lengths), device=self.labels.device).repeat_interleave(lengths)

    @cached_property
    def _positions(self) -> Tensor:
        starts = torch.tensor(self.layout.token_starts[:-1], device=self.labels.device)
        return torch.arange(len(self.labels), device=self.labels.device) - starts[self._rows]

    def step(
        self, spans: tuple[tuple[int, int], ...], sides: Callable[[SideName, tuple[int, int]], dict[str, Any]]
    ) -> Step:
        """The step over the rows of ``spans``; ``sides`` adds what a side's values are made from."""
        starts, device = self.layout.token_starts, self.labels.device
        built: dict[SideName, Side] = {}
        first_forget = spans[0][0]
        for number, (name, (begin, end)) in enumerate(zip(SIDES, spans, strict=True)):
            tokens = slice(starts[begin], starts[end])
            owner = None
            if name == "alternative":
                offset = self.layout.rows_of(number)[0]
                owner = torch.tensor(self.layout.owner[begin - offset : end - offset], dtype=torch.long, device=device)
                owner = owner - (first_forget if self.layout.counts[0] else (owner.min() if len(owner) else 0))
            logps = self.reference.logps
            built[name] = Side(
                rows=self._rows[tokens] - begin,
                labels=self.labels[tokens],
                positions=self._positions[tokens],
                lengths=torch.tensor(self.layout.lengths[begin:end], device=device),
                totals=self.totals[name],
                owner=owner,
                reference=logps[begin:end] if logps is not None and name in self.method.reference_logps else None,
                **sides(name, (begin, end)),
            )
        return Step(built["forget"], built["alternative"], built["retain"], self.layout.epoch, self.state)


def score_answers(halves: Halves, states: Tensor, batched: Batched, forward: Forward | None = None) -> Scored:
    """The loss over states [N, H] at the places that predict the N answer tokens, in row order."""
    layout, starts = batched.layout, batched.layout.token_starts
    outside = [p for p in halves.outside() if p.requires_grad]
    sink = Sink(halves.head, outside)
    grad = torch.zeros_like(states, dtype=torch.float32) if states.requires_grad else None
    others: list[Tensor | None] = [None] * len(sink.others)
    sums, observed = _Sums(), _Sums()
    for spans in layout.parts(batched.most_tokens):
        places = torch.cat([torch.arange(starts[begin], starts[end], device=states.device) for begin, end in spans])
        # where the head alone is trained, its gradient is made on the way to one that nobody wants
        part = states.detach()[places].requires_grad_(states.requires_grad or bool(sink.taken))
        reference = batched.reference
        given = None if reference.states is None else reference.states[places]
        taught = None if reference.taught is None else reference.taught[places]
        source: _Source = (_Kept if len(places) <= batched.most_tokens else _Pieces)(
            halves, part, given, reference.head, taught, sink.forward, forward, batched.most_tokens
        )
        offset = 0
        at: dict[SideName, tuple[int, int]] = {}
        for name, (begin, end) in zip(SIDES, spans, strict=True):
            count = starts[end] - starts[begin]
            at[name] = (offset, offset + count)
            offset += count
        step = batched.step(
            spans,
            lambda name, _: {
                "logits": _Slice(
                    source,  # noqa: B023
                    *at[name],  # noqa: B023
                    batched.labels[places],  # noqa: B023
                    name in batched.method.reference_logits,
                )
            },
        )
        terms = batched.method.loss(step)
        total = torch.stack(list(terms.values())).sum()
        if total.requires_grad:
            wanted = [part] if part.requires_grad else []
            found = torch.autograd.grad(total, [*wanted, *sink.others], allow_unused=True)
            if grad is not None and found[0] is not None:
                grad[places] = found[0].float()
            for place, more in enumerate(found[len(wanted) :]):
                if more is not None:
                    held = others[place]
                    others[place] = more.float() if held is None else held.add_(more)
        sums.add(terms)
        observed.add(step.observed)
    value = torch.stack(list(sums.values.values())).sum()
    known = [*zip(sink.taken, sink.grads, strict=True), *zip(sink.others, others, strict=True)]
    reached = [(parameter, gradient) for parameter, gradient in known if gradient is not None]
    if grad is None and not reached:
        return Scored(value, sums.values, observed.values)
    loss: Tensor = Attached.apply(  # type: ignore[no-untyped-call]
        value, grad, [gradient for _, gradient in reached], states, *(p for p, _ in reached)
    )
    return Scored(loss, sums.values, observed.values)


def score_states(states: Tensor, batched: Batched, token_rows: Tensor) -> Scored:
    """The loss of a method that reads a layer: its outputs [M, H] at all tokens of the batch, and the row of each."""
    spans = tuple(batched.layout.rows_of(side) for side in range(3))
    given = batched.reference.layer_states

    def values(_: SideName, span: tuple[int, int]) -> dict[str, Any]:
        here = (token_rows >= span[0]) & (token_rows < span[1])
        return {
            "state_values": states[here].float(),
            "state_rows": token_rows[here] - span[0],
            "reference_state_values": None if given is None else given[here].float(),
        }

    step = batched.step(spans, values)
    terms = batched.method.loss(step)
    return Scored(
        torch.stack(list(terms.values())).sum(), {name: t.detach() for name, t in terms.items()}, step.observed
    )


class _Sums:
    def __init__(self) -> None:
        self.values: dict[str, Tensor] = {}

    def add(self, terms: Mapping[str, Tensor]) -> None:
        for name, term in terms.items():
            value = term.detach()
            self.values[name] = self.values[name] + value if name in self.values else value


@dataclass(frozen=True)
class _Source:
    """Where the logits of a part's tokens come from: its states, and the frozen target's states with their head; and
    what the tokens are taught."""

    halves: Halves
    states: Tensor
    reference_states: Tensor | None
    reference_head: Forward | None
    taught: Taught | None
    head: Forward | None
    forward: Forward | None
    most_tokens: int

    def logits(self, begin: int, end: int) -> Tensor:
        return self.halves.logits(self.states[begin:end], head=self.head, forward=self.forward)

    def reference(self, begin: int, end: int) -> Tensor:
        given = self.reference_states
        if given is None:
            raise TrainingError("there are no reference states for a side that is in its method's reference_logits.")
        with torch.no_grad():
            return self.halves.logits(given[begin:end], head=self.reference_head, forward=self.forward)

    def lesson(self, begin: int, end: int) -> Taught:
        if self.taught is None:
            raise TrainingError("this loss reads a teacher, and its method's teaching gave none.")
        return self.taught[begin:end]

    def values(
        self, function: TokenFunction, labels: Tensor, begin: int, end: int, *, reference: bool, teacher: bool
    ) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class _Kept(_Source):
    """All logits of the part at once."""

    @cached_property
    def _logits(self) -> Tensor:
        return self.logits(0, len(self.states))

    @cached_property
    def _references(self) -> dict[tuple[int, int], Tensor]:
        return {}

    def values(
        self, function: TokenFunction, labels: Tensor, begin: int, end: int, *, reference: bool, teacher: bool
    ) -> Tensor:
        arguments: list[Any] = [self._logits[begin:end], labels]
        if reference:
            if (begin, end) not in self._references:
                self._references[begin, end] = self.reference(begin, end)
            arguments.append(self._references[begin, end])
        if teacher:
            arguments.append(self.lesson(begin, end))
        return function(*arguments)


@dataclass(frozen=True)
class _Pieces(_Source):
    """A few tokens at a time, computed again for the gradient: for rows whose own logits exceed the limit."""

    def values(
        self, function: TokenFunction, labels: Tensor, begin: int, end: int, *, reference: bool, teacher: bool
    ) -> Tensor:
        found = []
        for first in range(begin, end, self.most_tokens):
            last = min(first + self.most_tokens, end)

            def piece(states: Tensor, labels: Tensor, first: int = first, last: int = last) -> Tensor:
                arguments: list[Any] = [self.halves.logits(states, head=self.head, forward=self.forward), labels]
                if reference:
                    arguments.append(self.reference(first, last))
                if teacher:
                    arguments.append(self.lesson(first, last))
                return function(*arguments)

            states, some = self.states[first:last], labels[first - begin : last - begin]
            found.append(checkpoint(piece, states, some, use_reentrant=False))
        return torch.cat(found)


@dataclass(frozen=True)
class _Slice(Logits):
    """One side's tokens of a part."""

    source: _Source
    begin: int
    end: int
    labels: Tensor
    has_reference: bool

    def per_token(self, function: TokenFunction, *, reference: bool, teacher: bool = False) -> Tensor:
        if reference and not self.has_reference:
            raise TrainingError("this loss reads reference logits; name the side in its method's reference_logits.")
        if self.begin == self.end:
            # no token, and yet a part of the graph, so that a sum over nothing has a gradient: zero
            return self.source.states[:0].sum(-1).float()
        labels = self.labels[self.begin : self.end]
        return self.source.values(function, labels, self.begin, self.end, reference=reference, teacher=teacher)


def most_tokens(device: torch.device, vocabulary: int) -> int:
    """How many answer tokens' logits are in memory at a time."""
    return max(_LEAST_TOKENS, LOGIT_BYTES.get(device.type, LOGIT_BYTES["cuda"]) // (4 * vocabulary))


@contextmanager
def scoring(model: PreTrainedModel) -> Iterator[None]:
    """Inside, ``model(.., score=function)`` returns ``function(forward, inputs)`` with the model's own forward.

    Losses are made inside the forward of the model itself, so that a wrapper around it (an adapter, mixed precision,
    data-parallel or sharded processes) sees one forward and one backward.
    """
    own = model.forward

    @functools.wraps(own)
    def forward(*arguments: Any, score: Callable[..., Any] | None = None, **inputs: Any) -> Any:
        return own(*arguments, **inputs) if score is None else score(own, inputs)

    with replaced(model, forward):
        yield
