"""The target's parameters put back into the erased model, over windows of layers; afterwards every bit is as before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from expunge.audits.parts.activation_patching import windows
from expunge.audits.parts.comparing import Change, Comparison, Kept
from expunge.data.batches import Batch
from expunge.errors import ConfigError, ModelError
from expunge.models.anatomy import decoder_layers, is_down_projection
from expunge.models.layer_runs import LayerRuns, Recorded

if TYPE_CHECKING:
    from expunge.methods.interface import Erasure

Group = Literal["values", "keys", "attention", "norms", "outside"]
"""``values``: MLP down projections; ``keys``: the rest of the MLPs, gates and routers among it; ``attention``;
``norms``: those of the layers; ``outside``: what is in no layer (embeddings, last norm, head)."""

_BASE = ".base_layer"  # PEFT's name for the layer it wraps
_LISTED = 5


def parameter_groups(model: nn.Module) -> dict[str, tuple[Group, int | None]]:
    """Every parameter of ``model`` by name, with its group and its layer (None outside); those that an adapter adds are
    left out and those it wraps have the names that they have without it."""
    layers = [f"{prefix}." for prefix, _ in decoder_layers(model)]
    found: dict[str, tuple[Group, int | None]] = {}
    for name in _named(model):
        number = next((n for n, prefix in enumerate(layers) if name.startswith(prefix)), None)
        found[name] = ("outside", None) if number is None else (_group(name.removeprefix(layers[number])), number)
    return found


def _group(name: str) -> Group:
    parts = name.split(".")
    if "norm" in parts[0] or parts[0].startswith("ln_"):
        return "norms"  # such as post_attention_layernorm; what lies inside attention belongs to it
    if any(word in part for part in parts for word in ("attn", "attention")):
        return "attention"
    bare = name.removesuffix(".bias").removesuffix("_bias")
    return "values" if is_down_projection(name) or is_down_projection(bare) else "keys"


def _named(model: nn.Module) -> dict[str, nn.Parameter]:
    return {
        name.replace(_BASE, ""): parameter for name, parameter in model.named_parameters() if not _is_added(name, model)
    }


def _is_added(name: str, model: nn.Module) -> bool:
    """Whether an adapter brought the parameter: it lies in the wrapper of a layer and not in the layer itself."""
    parts = name.split(".")
    for end in range(1, len(parts)):
        wrapper = model.get_submodule(".".join(parts[:end]))
        if hasattr(wrapper, "base_layer"):
            return parts[end] != "base_layer"
    return False


def restorations(
    model: Any,
    components: Iterable[str] = ("values", "keys", "attention"),
    width: int | None = None,
    most: int | None = None,
) -> list[Change]:
    """One change for each component and window (see :func:`~expunge.audits.parts.activation_patching.windows`), and one
    for ``outside`` and ``all`` where they are asked for.

    Raises:
        ConfigError: a component that does not exist.
    """
    known = (*get_args(Group), "all")
    wanted = list(components)
    if not wanted or not set(wanted) <= set(known):
        raise ConfigError(f"components={wanted}: name some of {', '.join(known)}.")
    count = len(decoder_layers(model))
    changes = []
    for name in wanted:
        if name in ("outside", "all"):
            changes.append(Change(name, None, range(count)))
        else:
            changes += [Change(name, centre, layers) for centre, layers in windows(count, width, most).items()]
    return changes


@dataclass
class Restoring(Comparison):
    """Puts back each of ``changes`` (:func:`restorations`). ``originals`` are the target's values of all parameters
    that may differ."""

    originals: Mapping[str, Tensor] = field(default_factory=dict)
    what: str = "restoration"

    def entered(self, model: Any) -> None:
        if not hasattr(self, "_groups"):
            self._groups = parameter_groups(model)
            self._differing = differing(model, self.originals)

    def groups(self, batch: Batch, tokens: int) -> Iterator[list[Change]]:  # noqa: ARG002 - weights serve all rows
        return ([change] for change in self.changes)

    @contextmanager
    def changed(self, runs: LayerRuns, kept: Kept, own: Recorded, group: Sequence[Change]) -> Iterator[Tensor]:
        (change,) = group
        names = [name for name in self._differing if self._belongs(name, change)]
        with restored(runs.model, self.originals, names):
            yield runs.run(kept.batch, change.first, own.layers.get(change.first - 1)) if names else own.states

    def _belongs(self, name: str, change: Change) -> bool:
        kind, layer = self._groups[name]
        if change.centre is None:
            return change.component in ("all", kind)
        return kind == change.component and layer in change.layers


def originals(model: nn.Module, erasure: Erasure | None = None) -> dict[str, Tensor]:
    """The values of a model's parameters: shared with it, or where an ``erasure`` is about to be applied to it, copies
    of those that it replaces, in host memory (none for an adapter, which replaces none)."""
    named = dict(model.named_parameters())
    if erasure is None:
        return {name: parameter.detach() for name, parameter in named.items()}
    replaced = getattr(erasure, "tensors", named)
    return {name: named[name].detach().to("cpu", copy=True) for name in replaced if name in named}


def differing(model: nn.Module, originals: Mapping[str, Tensor]) -> list[str]:
    """The parameters whose bits are not those of ``originals``, and those that an adapter adds to.

    Raises:
        ModelError: they are not of one shape, or quantised, or not in memory: all of them in one error.
    """
    named = _named(model)
    problems = [f"{name} is missing" for name in originals if name not in named]
    changed = []
    for name, parameter in named.items():
        original = originals.get(name)
        if original is None:
            if _tuner(model, name) is not None:
                changed.append(name)
        elif parameter.is_meta or not parameter.is_floating_point():
            problems.append(f"{name} is {'offloaded' if parameter.is_meta else 'quantised'}")
        elif parameter.shape != original.shape:
            problems.append(f"{name} has shape {list(parameter.shape)}, the target's {list(original.shape)}")
        elif _tuner(model, name) is not None or not torch.equal(parameter, original.to(parameter)):
            changed.append(name)
    if problems:
        more = f" and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise ModelError(
            "the target's parameters have no place in the erased model: "
            f"{'; '.join(problems[:_LISTED])}{more}. Pass two models of one architecture and size, unquantised and in "
            "memory."
        )
    return changed


@contextmanager
def restored(model: nn.Module, originals: Mapping[str, Tensor], names: Iterable[str]) -> Iterator[None]:
    """Inside, the named parameters are the target's; adapters on them are passed over. Tensors change places, so that
    on exit, after an exception too, every bit is back."""
    named, own = _named(model), dict[str, Tensor]()
    silenced: dict[Any, bool] = {}
    try:
        for name in names:
            tuner = _tuner(model, name)
            if tuner is not None:
                # PEFT's public switch sets requires_grad as well
                silenced.setdefault(tuner, tuner._disable_adapters)
                tuner._disable_adapters = True
            if name in originals:
                own[name] = named[name].data
                named[name].data = originals[name].to(own[name])
        yield
    finally:
        for name, values in own.items():
            named[name].data = values
        for tuner, before in silenced.items():
            tuner._disable_adapters = before


def _tuner(model: nn.Module, name: str) -> Any:
    """The adapter around the module that owns a parameter; None where there is none."""
    owner = model.get_submodule(name.rpartition(".")[0])
    return owner if hasattr(owner, "base_layer") and hasattr(owner, "_disable_adapters") else None
