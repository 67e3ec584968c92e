"""The target's parameters put back into the erased model, over windows of layers; afterwards every bit is as before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from expunge.audits.parts.activation_patching import windows
from expunge.audits.parts.comparing import Change, Comparison, Kept
from expunge.data.batches import Batch
from expunge.errors import ConfigError, ModelError
from expunge.models.anatomy import decoder_layers, is_down_projection
from expunge.models.halves import output_head
from expunge.models.layer_runs import LayerRuns, Recorded

if TYPE_CHECKING:
    from expunge.methods.interface import Erasure

Group = Literal["values", "keys", "attention", "norms", "outside"]
"""``values``: MLP down projections; ``keys``: the rest of the MLPs, gates and routers among it; ``attention``;
``norms``: those of the layers; ``outside``: what is in no layer (embeddings, last norm, head)."""

_BASE = ".base_layer"  # PEFT's name for the layer it wraps
_WRAPPED = "base_model.model."  # what a PeftModel puts before the names of the model in it
_LISTED = 5


def parameter_groups(model: nn.Module) -> dict[str, tuple[Group, int | None]]:
    """Every parameter of ``model`` by name (all its names, where modules share it), with its group and its layer (None
    outside); those that an adapter adds are left out and those it wraps have the names that they have without it."""
    layers = [f"{_bare(prefix)}." for prefix, _ in decoder_layers(model)]
    found: dict[str, tuple[Group, int | None]] = {}
    for name in _places(model):
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
            self._differing = differing(model, self.originals, partial=self.same_model)

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
    of those that it replaces, in host memory (none for an adapter, which replaces none). A parameter that several
    modules share is there under all its names."""
    places = _places(model)
    if erasure is None:
        return {name: place.parameter.detach() for name, place in places.items()}
    replaced = getattr(erasure, "tensors", places)
    ids = {id(places[name].parameter) for name in map(_bare, replaced) if name in places}
    copies: dict[int, Tensor] = {}
    for place in places.values():
        key = id(place.parameter)
        if key in ids and key not in copies:
            copies[key] = place.parameter.detach().to("cpu", copy=True)
    return {name: copies[key] for name, place in places.items() if (key := id(place.parameter)) in copies}


def differing(model: Any, originals: Mapping[str, Tensor], *, partial: bool = False) -> list[str]:
    """The parameters whose bits are not those of ``originals``, and those that an adapter adds to. With ``partial``,
    those that ``originals`` lacks are the target's own.

    The rows of embeddings and head may be more or fewer (padding of the vocabulary).

    Raises:
        ModelError: they are not of one shape, or not there, or quantised, or not in memory, or merged with an adapter:
            all of them in one error.
    """
    places = _places(model)
    ends = (model.get_input_embeddings(), output_head(model))
    rows = {id(getattr(module, name, None)) for module in ends for name in ("weight", "bias")}
    problems = [f"{name} is missing" for name in originals if name not in places]
    changed = []
    for name, place in places.items():
        original, parameter = originals.get(name), place.parameter
        if getattr(place.tuner, "merged", False):
            problems.append(f"{name} is merged with an adapter, which can be unmerged first")
        elif original is None:
            if not partial:
                problems.append(f"{name} is not in the target")
            elif place.tuner is not None:
                changed.append(name)
        elif parameter.is_meta or not parameter.is_floating_point():
            problems.append(f"{name} is {'offloaded' if parameter.is_meta else 'quantised'}")
        elif parameter.shape[id(parameter) in rows :] != original.shape[id(parameter) in rows :]:
            problems.append(f"{name} has shape {list(parameter.shape)}, the target's {list(original.shape)}")
        elif place.tuner is not None or not torch.equal(parameter, original.to(parameter)):
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
    """Inside, the named parameters are the target's; adapters on them are passed over. Parameters change places, each
    under its own name also where modules share it, so that on exit, after an exception too, every bit is back."""
    places = _places(model)
    taken: list[_Place] = []
    made: dict[tuple[int, int], nn.Parameter] = {}  # one where modules share it in both models
    silenced: dict[Any, bool] = {}
    try:
        for name in names:
            place = places[name]
            if place.tuner is not None:
                # PEFT's public switch sets requires_grad as well
                silenced.setdefault(place.tuner, place.tuner._disable_adapters)
                place.tuner._disable_adapters = True
            if name in originals:
                key = id(place.parameter), originals[name].data_ptr()
                if key not in made:
                    made[key] = nn.Parameter(originals[name].to(place.parameter), requires_grad=False)
                taken.append(place)
                place.owner._parameters[place.leaf] = made[key]
        yield
    finally:
        for place in taken:
            place.owner._parameters[place.leaf] = place.parameter
        for tuner, before in silenced.items():
            tuner._disable_adapters = before


class _Place(NamedTuple):
    """Where a parameter is: in ``owner`` under the name ``leaf``, and what adapter is around the owner, if any."""

    parameter: nn.Parameter
    owner: nn.Module
    leaf: str
    tuner: Any


def _places(model: nn.Module) -> dict[str, _Place]:
    """Every parameter under every name that it has, without what wrappers add to the name; those that an adapter
    brought are left out."""
    found = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        path, _, leaf = name.rpartition(".")
        tuner = _tuner(model, path)
        if tuner is None or f"{path}.".startswith(f"{tuner[0]}{_BASE}."):
            found[_bare(name)] = _Place(parameter, model.get_submodule(path), leaf, tuner and tuner[1])
    return found


def _bare(name: str) -> str:
    return name.removeprefix(_WRAPPED).replace(_BASE, "")


def _tuner(model: nn.Module, path: str) -> tuple[str, Any] | None:
    """The outermost adapter around the module at ``path``, with its own path; what lies beside its base layer in it was
    brought by it."""
    parts = path.split(".")
    for end in range(1, len(parts) + 1):
        name = ".".join(parts[:end])
        wrapper = model.get_submodule(name)
        if hasattr(wrapper, "base_layer") and hasattr(wrapper, "_disable_adapters"):
            return name, wrapper
    return None
