"""Where a decoder layer's activations can be read: four roles, found by structure, and any module by name.

====================  ==============================================================================================
``mlp_activation``    what goes into an MLP's activation function: the gate projection's output, or where there is no
                      gate the first projection's
``mlp_key``           what goes into an MLP's down projection
``attention_output``  what goes into attention's output projection
``residual``          what comes out of the layer
====================  ==============================================================================================

A mixture of experts has a key and an activation for each expert, and those of a shared expert beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal, get_args

from expunge.errors import ConfigError, ModelError, UnknownNameError, did_you_mean
from expunge.models.anatomy import decoder_layers, is_down_projection

if TYPE_CHECKING:
    from torch import nn

Role = Literal["mlp_activation", "mlp_key", "attention_output", "residual"]
Reads = Literal["input", "output"]

ROLES: tuple[Role, ...] = get_args(Role)

_ACTIVATIONS = frozenset({"act_fn", "act", "activation_fn", "activation", "gelu_impl"})
_ATTENTION_OUT = frozenset({"o_proj", "out_proj", "c_proj", "dense", "wo"})
_ATTENTION = ("attn", "attention")
_LISTED = 20


@dataclass(frozen=True)
class Site:
    """One place where activations are read.

    ``module`` is the full dotted name of a module whose first input or whose output (the first of several) is read. The
    matrices of routed experts are no modules: there ``module`` names the tensor that holds all experts' matrices, or
    their activation function, and ``expert`` says whose. ``width`` is None where only a forward tells it; ``layer``
    counts from 0 and is None outside the decoder layers.

    A routed expert's values are [n, width] for the n tokens that were sent to it. All others come as [B, S, width] or
    [B * S, width], which the values' own shape tells: OPT flattens its MLPs, and some mixtures a shared expert.
    """

    module: str
    reads: Reads
    role: Role | None = None
    layer: int | None = None
    width: int | None = None
    expert: int | None = None

    @property
    def key(self) -> str:
        """``MODULE:input``, with the expert in brackets: what names the site in files and messages."""
        return f"{self.module}{'' if self.expert is None else f'[{self.expert}]'}:{self.reads}"


def find_sites(model: nn.Module, wanted: str | Iterable[str], layers: Iterable[int] | None = None) -> list[Site]:
    """The sites of ``wanted``, each a role or a pattern, in the order of the layers.

    A pattern is ``NAME:input`` or ``NAME:output``, NAME being a full dotted module name in which ``*`` stands for
    anything: ``*.mlp.down_proj:input``. ``ROLE=NAME:input`` gives what is found that way a role, for an architecture in
    which the role is not recognised. ``layers`` (counted from 0) limits all of them; None means all layers.

    Raises:
        UnknownNameError: a word that is neither a role nor a pattern.
        ConfigError: nothing is wanted.
        ModelError: a layer that the model does not have; a role that is not recognised in a layer, with what is there;
            a pattern that no module matches.
    """
    words = checked_words(wanted)
    chosen = None if layers is None else list(layers)
    found: dict[str, Site] = {}
    for word in words:
        sites = _by_role(model, word, chosen) if word in ROLES else _by_pattern(model, word, chosen)  # type: ignore[arg-type]
        for site in sites:
            found.setdefault(site.key, site)
    return sorted(found.values(), key=lambda site: -1 if site.layer is None else site.layer)


def checked_words(wanted: str | Iterable[str]) -> list[str]:
    """The roles and patterns of ``wanted``; what can be told to be wrong without a model is an error (see
    :func:`find_sites`)."""
    words = [wanted] if isinstance(wanted, str) else list(wanted)
    if not words:
        raise ConfigError(f"no site is named. Name roles ({', '.join(ROLES)}) or patterns such as *.down_proj:input.")
    for word in words:
        if word not in ROLES and ":" not in word:
            raise UnknownNameError(
                f"'{word}' is no role of a layer's activations. {did_you_mean(word, ROLES)} "
                "A module is named with what is read of it, as in *.mlp.down_proj:input."
            )
    return words


def _by_role(model: nn.Module, role: Role, layers: Sequence[int] | None) -> list[Site]:
    finders: dict[Role, Callable[[nn.Module, str, nn.Module], list[Site]]] = {
        "mlp_activation": _mlp_activations,
        "mlp_key": _mlp_keys,
        "attention_output": _attention_outputs,
        "residual": _residuals,
    }
    every = decoder_layers(model)
    sites: list[Site] = []
    missing: list[int] = []
    for number in range(len(every)) if layers is None else _checked(model, layers, len(every)):
        prefix, layer = every[number]
        here = finders[role](model, prefix, layer)
        sites += [Site(s.module, s.reads, role, number, s.width, s.expert) for s in here]
        if not here:
            missing.append(number)
    if missing:
        raise ModelError(
            f"no {role} is recognised in layer{'s' if len(missing) > 1 else ''} {', '.join(map(str, missing))} of "
            f"{type(model).__name__}: {_contents(*every[missing[0]])}. {_advice(role)} "
            "Or name the layers that have one."
        )
    return sites


def _mlp_keys(model: nn.Module, prefix: str, layer: nn.Module) -> list[Site]:
    sites = []
    for module, experts in _down_projections(prefix, layer):
        if experts is None:
            sites.append(Site(module, "input", width=_input_width(model.get_submodule(module))))
        else:
            width = _routed(model, module, "mlp_key")
            sites += [Site(module, "input", width=width, expert=number) for number in range(experts)]
    return sites


def _mlp_activations(model: nn.Module, prefix: str, layer: nn.Module) -> list[Site]:
    sites = []
    for module, experts in _down_projections(prefix, layer):
        owner = module.rpartition(".")[0]
        name = _activation_of(model.get_submodule(owner))
        if name is None:
            if experts is not None:
                _routed(model, module, "mlp_activation")
            # a shared expert's activation must not stand for that of an MLP beside it whose own is not recognised
            return []
        width = None if experts is not None else _input_width(model.get_submodule(module))
        if experts is None:
            sites.append(Site(f"{owner}.{name}", "input", width=width))
        else:
            width = _routed(model, module, "mlp_activation")
            sites += [Site(f"{owner}.{name}", "input", width=width, expert=number) for number in range(experts)]
    return sites


def _attention_outputs(model: nn.Module, prefix: str, layer: nn.Module) -> list[Site]:
    names = [
        f"{prefix}.{name}"
        for name, module in layer.named_modules()
        if name.rpartition(".")[2] in _ATTENTION_OUT
        and any(word in part for part in name.split(".")[:-1] for word in _ATTENTION)
        and any(True for _ in module.parameters())
    ]
    if len(names) > 1:
        raise ModelError(
            f"{prefix} has {len(names)} output projections of attention: {', '.join(names)}. Say which is meant: "
            "'attention_output=PATTERN:input'."
        )
    return [Site(name, "input", width=_input_width(model.get_submodule(name))) for name in names]


def _residuals(model: nn.Module, prefix: str, layer: nn.Module) -> list[Site]:  # noqa: ARG001 - as the other finders
    config: Any = getattr(model, "config", None)
    text: Any = config.get_text_config() if hasattr(config, "get_text_config") else config
    return [Site(prefix, "output", width=getattr(text, "hidden_size", None))]


def _down_projections(prefix: str, layer: nn.Module) -> list[tuple[str, int | None]]:
    """Each MLP down projection's full name: a module's with None, or a tensor's with the number of experts in it."""
    modules = [
        f"{prefix}.{name}"
        for name, _ in layer.named_modules()
        if name and not name.endswith(".base_layer") and is_down_projection(name)
    ]
    separate = [name for name in modules if any(part.isdigit() for part in name.removeprefix(prefix).split("."))]
    if separate:
        raise ModelError(
            f"{separate[0]}: each expert is a module of its own, which sees the tokens that were sent to it and not "
            "which they are, so its activations cannot be told apart by row. Choose another role (attention_output, "
            "residual)."
        )
    tensors = [
        (f"{prefix}.{name}", len(parameter))
        for name, parameter in layer.named_parameters()
        if parameter.ndim >= 2 and not name.endswith(".weight") and is_down_projection(name)
    ]
    return [*((name, None) for name in modules), *tensors]


def _routed(model: nn.Module, tensor: str, role: Role) -> int:
    """The width of the keys of routed experts whose down projections are all in one tensor."""
    from expunge.models.experts import check_experts

    owner, _, name = tensor.rpartition(".")
    experts: Any = model.get_submodule(owner)
    check_experts(experts, owner, name, activation=_activation_of(experts) if role == "mlp_activation" else "")
    return int(experts.down_proj.shape[1 if experts.is_transposed else 2])


def _activation_of(module: nn.Module) -> str | None:
    """The name of a module's own activation function: a child without parameters, by name or from the libraries."""
    homes = ("transformers.activations", "torch.nn.modules.activation")
    names = [
        name
        for name, child in module.named_children()
        if not any(True for _ in child.parameters()) and (name in _ACTIVATIONS or type(child).__module__ in homes)
    ]
    return names[0] if len(names) == 1 else None


def _input_width(module: Any) -> int | None:
    width = getattr(module, "in_features", None)  # a quantised weight's own shape says nothing
    if width is None:
        width = getattr(module, "nx", None)  # Conv1D
    return None if width is None else int(width)


def _by_pattern(model: nn.Module, word: str, layers: Sequence[int] | None) -> list[Site]:
    role, _, rest = word.rpartition("=")
    pattern, _, reads = rest.rpartition(":")
    if (role and role not in ROLES) or reads not in get_args(Reads) or not pattern:
        raise UnknownNameError(
            f"'{word}' is no site: expected [ROLE=]NAME:input or [ROLE=]NAME:output, NAME a dotted module name in "
            f"which * stands for anything. {did_you_mean(role, ROLES) if role else ''}".rstrip()
        )
    try:
        every = [prefix for prefix, _ in decoder_layers(model)]
    except ModelError:
        if layers is not None:
            raise
        every = []
    wanted = None if layers is None else set(_checked(model, layers, len(every)))
    sites = []
    for name, module in model.named_modules():
        if not name or not fnmatchcase(name, pattern):
            continue
        layer = next((n for n, prefix in enumerate(every) if name == prefix or name.startswith(f"{prefix}.")), None)
        if wanted is None or layer in wanted:
            width = _input_width(module) if reads == "input" else getattr(module, "out_features", None)
            sites.append(Site(name, reads, role or None, layer, width))  # type: ignore[arg-type]
    if not sites:
        where = "" if layers is None else f" in layers {', '.join(map(str, sorted(wanted or ())))}"
        inside = _contents(*decoder_layers(model)[0]) if every else f"it holds {_named(model)}"
        raise ModelError(f"no module of {type(model).__name__}{where} matches '{pattern}': {inside}.")
    return sites


def _checked(model: nn.Module, layers: Sequence[int], count: int) -> list[int]:
    wrong = [number for number in layers if not 0 <= number < count]
    if wrong:
        raise ModelError(
            f"{type(model).__name__} has no layer {', '.join(map(str, wrong))}: it has layers 0 to {count - 1}."
        )
    return sorted(set(layers))


def _contents(prefix: str, layer: nn.Module) -> str:
    return f"{prefix} holds {_named(layer)}"


def _named(module: nn.Module) -> str:
    names = [f"{name} ({type(child).__name__})" for name, child in module.named_modules() if name]
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")


def _advice(role: Role) -> str:
    reads = "output" if role == "residual" else "input"
    example = {"mlp_activation": "*.mlp.act", "mlp_key": "*.mlp.down", "attention_output": "*.attention.out"}.get(role)
    return f"Say where it is: '{role}=PATTERN:{reads}', as in '{role}={example or '*.layers.?'}:{reads}'."
