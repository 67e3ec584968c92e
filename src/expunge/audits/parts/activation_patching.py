"""The target's activations put into the erased model while it runs, over windows of layers.

Patches that begin at the same layer are rows of one forward.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any, Literal, get_args

from torch import Tensor

from expunge.audits.parts.comparing import Change, Comparison, Kept, Key
from expunge.data.batches import Batch
from expunge.errors import ConfigError, ModelError
from expunge.models.anatomy import decoder_layers
from expunge.models.layer_runs import LayerRuns, Recorded
from expunge.models.roles import Role, Site, find_sites
from expunge.models.taps import Tap

Component = Literal["mlp", "attention", "both", "residual"]

ROLES_OF: dict[str, tuple[Role, ...]] = {
    "mlp": ("mlp_key",),
    "attention": ("attention_output",),
    "both": ("mlp_key", "attention_output"),
    "residual": ("residual",),
}
"""What each component patches: MLP keys are what goes into the down projections, attention outputs what goes into
attention's output projections, residuals what a layer gives to the next."""

# Up to so many tokens a forward gains from more rows in it; on a CPU more of them cost memory alone.
_TOGETHER = {"cpu": 512}
# Up to so many it costs so little more that layers may be computed in vain.
_MERGED = {"cpu": 256}
_GPU_MERGED = 4096
_LISTED = 5


def windows(count: int, width: int | None = None, most: int | None = None) -> dict[int, range]:
    """By its centre a window of ``width`` layers around each of ``count`` layers, clipped at the ends; where there are
    more than ``most``, around so many of them, evenly spread from first to last. No layer is left out: where ``most``
    are too few to cover all, ceil(count / width) stand side by side.

    Width None: 5 layers, 1 in models of fewer than 16; an even width reaches farther up than down.

    Raises:
        ConfigError: a width or a number below 1.
    """
    width = (5 if count >= 16 else 1) if width is None else width
    if width < 1:
        raise ConfigError(f"width={width}: a window has 1 layer at least.")
    if most is not None and most < 1:
        raise ConfigError(f"windows={most}: a component has 1 window at least.")
    chosen = count if most is None else min(count, max(most, ceil(count / width)))
    # from the first layer to the last where that leaves no gap, else as far as windows side by side reach
    span = min(count - 1, width * (chosen - 1))
    lowest = (count - 1 - span) // 2
    centres = [lowest + round(n * span / max(1, chosen - 1)) for n in range(chosen)]
    below = (width - 1) // 2
    return {layer: range(max(0, layer - below), min(count, layer - below + width)) for layer in centres}


def patches_of(
    model: Any,
    components: Iterable[str] = ("mlp", "attention", "both"),
    width: int | None = None,
    most: int | None = None,
) -> tuple[list[Change], dict[str, str]]:
    """The patches of all windows (:func:`windows`) and components that ``model`` allows, and for those that it does not
    why, by component and layer.

    Windows with routed experts are left out: a token that one model sends to an expert may go to another one in the
    other model, so that there is nothing to take the key's place.
    """
    wanted = list(components)
    unknown = [name for name in wanted if name not in ROLES_OF]
    if unknown or not wanted:
        raise ConfigError(f"components={wanted}: name some of {', '.join(get_args(Component))}.")
    count = len(decoder_layers(model))
    lacking = {role: _lacking(model, role, count) for name in wanted for role in ROLES_OF[name]}
    patches, skipped = [], {}
    for name in wanted:
        for centre, layers in windows(count, width, most).items():
            reasons = [why for role in ROLES_OF[name] for layer in layers if (why := lacking[role].get(layer))]
            if reasons:
                skipped[f"{name} {centre}"] = reasons[0]
            else:
                patches.append(Change(name, centre, layers))
    return patches, skipped


def _lacking(model: Any, role: Role, count: int) -> dict[int, str]:
    """The layers in which ``role`` cannot be patched, and why."""
    found = {}
    for layer in range(count):
        try:
            if any(site.expert is not None for site in find_sites(model, role, [layer])):
                found[layer] = f"layer {layer} routes tokens to experts, which need not be the same ones in both models"
        except ModelError as error:
            found[layer] = str(error)
    return found


@dataclass
class Patching(Comparison):
    """Patches each of ``changes`` (:func:`patches_of`). Up to ``merged_tokens`` tokens, patches that begin at different
    layers share a forward; None: as many as cost next to nothing."""

    merged_tokens: int | None = None
    what: str = "patching"

    def sites(self, model: Any) -> dict[Key, Site]:
        wanted = sorted(
            {(role, layer) for one in self.changes for role in ROLES_OF[one.component] for layer in one.layers}
        )
        return {
            (role, layer, number): site
            for role, layer in wanted
            for number, site in enumerate(find_sites(model, role, [layer]))
        }

    def entered(self, model: Any) -> None:
        self._sites = self.sites(model)

    def groups(self, batch: Batch, tokens: int) -> Iterator[list[Change]]:
        device, merged = batch.input_ids.device.type, self.merged_tokens
        together = min(tokens, _TOGETHER.get(device, tokens))
        if merged is None:
            merged = _MERGED.get(device, _GPU_MERGED)
        size, group = batch.input_ids.numel(), list[Change]()
        for change in sorted(self.changes, key=lambda change: change.first):
            room = max(together, merged) if group and change.first == group[0].first else merged
            if group and (len(group) + 1) * size > room:
                yield group
                group = []
            group.append(change)
        if group:
            yield group

    @contextmanager
    def changed(self, runs: LayerRuns, kept: Kept, own: Recorded, group: Sequence[Change]) -> Iterator[Tensor]:
        self._check_widths(kept)
        taps: dict[Site, Tap] = {}
        for key, site in self._sites.items():
            role, layer, _ = key
            chosen = [n for n, one in enumerate(group) if role in ROLES_OF[one.component] and layer in one.layers]
            if chosen:
                taps[site] = partial(_swap, stored=kept.values[key], chosen=chosen, copies=len(group))
        first = min(change.first for change in group)
        yield runs.run(kept.batch, first, own.layers.get(first - 1), taps=taps, copies=len(group))

    def _check_widths(self, kept: Kept) -> None:
        problems = [
            f"{role} of layer {layer}: {kept.values[role, layer, number].shape[-1]} and {site.width}"
            for (role, layer, number), site in self._sites.items()
            if site.width not in (None, kept.values[role, layer, number].shape[-1])
        ]
        if problems:
            raise ModelError(
                "the target's activations have another width than the erased model's "
                f"({'; '.join(problems[:_LISTED])}{', ..' * (len(problems) > _LISTED)}). Pass two models of one "
                "architecture and size."
            )


def _swap(values: Tensor, tokens: Tensor | None, *, stored: Tensor, chosen: Collection[int], copies: int) -> Tensor:  # noqa: ARG001
    """``values`` of ``copies`` of a batch, those of the ``chosen`` copies replaced by ``stored``."""
    given = stored.to(values).reshape(1, -1, values.shape[-1])
    if len(chosen) == copies:
        return given.expand(copies, -1, -1).reshape(values.shape)
    changed = values.reshape(copies, -1, values.shape[-1]).clone()
    changed[list(chosen)] = given
    return changed.view(values.shape)
