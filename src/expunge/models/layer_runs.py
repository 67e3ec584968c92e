"""Forwards that begin at any layer: what lies below it is not computed again, its result is handed in."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from expunge.data.batches import Batch
from expunge.models.anatomy import decoder_layers
from expunge.models.halves import Halves, replaced
from expunge.models.logprobs import takes_positions
from expunge.models.prompt_lengths import prompt_lengths
from expunge.models.roles import Site
from expunge.models.taps import Tap, tapped


@dataclass(frozen=True)
class Recorded:
    """What a whole forward over [B, S] tokens left behind.

    ``states`` [B, S, H] are those that the head reads, ``layers`` [B, S, H] the outputs of layers, ``sites`` the values
    of sites in the form in which they passed ([B, S, W] or [B * S, W]).
    """

    states: Tensor
    layers: dict[int, Tensor] = field(default_factory=dict)
    sites: dict[Site, Tensor] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """What it takes up in memory."""
        every = [self.states, *self.layers.values(), *self.sites.values()]
        return sum(values.numel() * values.element_size() for values in every)


class LayerRuns:
    """Runs the body of ``model`` whole or from a layer on; the head is left to :class:`~expunge.models.halves.Halves`.

    A restarted forward equals the whole one bit for bit when its shape is the same. It passes over what hooks do below
    the layer, and over what a family carries past its layers beside their output (see :meth:`restarts`).
    """

    def __init__(self, model: Any) -> None:
        self.model, self.halves = model, Halves(model)
        self.layers: list[nn.Module] = [layer for _, layer in decoder_layers(model)]
        self._beside: dict[int, int] = {}  # how many things a layer returns beside its states

    def record(self, batch: Batch, *, layers: Collection[int] = (), sites: Collection[Site] = ()) -> Recorded:
        """Run all of ``batch`` and keep the outputs of ``layers`` and the values of ``sites``."""
        kept: dict[int, Tensor] = {}
        values: dict[Site, Tensor] = {}

        def look(number: int) -> Callable[..., None]:
            def after(_: nn.Module, __: Any, output: Any) -> None:
                several = isinstance(output, tuple)
                self._beside[number] = len(output) - 1 if several else -1
                if number in layers:
                    # some models go on to write over what passes
                    kept[number] = (output[0] if several else output).detach().clone()

            return after

        def keep(site: Site) -> Tap:
            return lambda seen, _: values.__setitem__(site, seen.detach().clone())

        with ExitStack() as stack:
            for number, layer in enumerate(self.layers):
                stack.callback(layer.register_forward_hook(look(number)).remove)
            stack.enter_context(tapped(self.model, {site: keep(site) for site in sites}))
            return Recorded(self._states(batch, 1), kept, values)

    def run(
        self,
        batch: Batch,
        first: int,
        entering: Tensor | None,
        *,
        taps: Mapping[Site, Tap] | None = None,
        copies: int = 1,
    ) -> Tensor:
        """[C * B, S, H] the states that the head reads of ``copies`` C of the batch, one after the other.

        Layer ``first`` is handed ``entering`` [B, S, H], what layer ``first - 1`` gave in :meth:`record`; None: all
        layers are run.
        """
        with ExitStack() as stack:
            if first and entering is not None:
                given = entering.repeat(copies, 1, 1) if copies > 1 else entering
                for number, layer in enumerate(self.layers[:first]):
                    stack.enter_context(replaced(layer, self._handing_on(number, given)))
                    stack.enter_context(_unhooked(layer))  # what its hooks do is in what it gave
            stack.enter_context(tapped(self.model, taps or {}))
            return self._states(batch, copies)

    @torch.no_grad()
    def agrees(self, batch: Batch, recorded: Recorded, tolerance: float = 1e-3) -> bool:
        """Whether a forward that restarts above the last recorded layer gives the states that were recorded. It does
        not in families whose layers hand more to each other than their output, or where hooks act across layers."""
        last = max(recorded.layers)
        difference = (self.run(batch, last + 1, recorded.layers[last]) - recorded.states).abs().max()
        return bool(difference <= tolerance * recorded.states.abs().max())

    @torch.no_grad()
    def restarts(self, batch: Batch, layers: Collection[int]) -> bool:
        """Whether runs that restart above any of ``layers`` give what whole ones do: the model carries no hook
        (but those of transformers), since some act across layers in some prompts alone, and each of the layers agrees
        in the first row of ``batch``."""
        hooks = (hook for module in self.model.modules() for hook in _hooks(module))
        if not all(str(getattr(hook, "__module__", "")).startswith("transformers.") for hook in hooks):
            return False
        row = Batch(batch.input_ids[:1], batch.attention_mask[:1], batch.answer_mask[:1], batch.side)
        whole = self.record(row, layers=layers)
        return all(self.agrees(row, Recorded(whole.states, {n: given})) for n, given in whole.layers.items())

    def _handing_on(self, number: int, given: Tensor) -> Callable[..., Any]:
        beside = self._beside[number]

        def forward(*_: Any, **__: Any) -> Any:
            return given if beside < 0 else (given, *[None] * beside)

        return forward

    def _states(self, batch: Batch, copies: int) -> Tensor:
        ids, mask = batch.input_ids.repeat(copies, 1), batch.attention_mask.repeat(copies, 1)
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if batch.side == "left" and takes_positions(self.model):
            inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        lengths = (batch.attention_mask.bool() & ~batch.answer_mask).sum(-1).tolist()
        with prompt_lengths(lengths * copies):
            return self.halves.states(**inputs)


def _hooks(module: nn.Module) -> list[Callable[..., Any]]:
    return [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]


@contextmanager
def _unhooked(module: nn.Module) -> Iterator[None]:
    """Inside, the hooks that were on ``module`` itself do not act; those that come are gone afterwards."""
    names = ("_forward_pre_hooks", "_forward_hooks")
    before = {name: module.__dict__[name] for name in names}
    try:
        module.__dict__.update({name: OrderedDict() for name in names})
        yield
    finally:
        module.__dict__.update(before)
