"""Where the decoder layers of a model are, and which parameters write their MLPs' results."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from expunge.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

_DOWN = frozenset({"down_proj", "c_proj", "dense_4h_to_h", "fc2", "fc_out", "w2"})
_ATTENTION = ("attn", "attention")


def decoder_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The decoder layers in order, each with its full dotted name in ``model``.

    Found by structure: the module lists that are not inside another one (a layer's experts are) and whose members hold
    parameters; of these, those as long as the text configuration says, else the longest. A PEFT wrapper changes the
    names, not the layers.

    Raises:
        ModelError: there is no such list, or more than one.
    """
    from torch import nn

    found: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, nn.ModuleList) and not inside and _holds_parameters(module):
            found[name] = module
    stated = _stated_layers(model)
    lengths = {len(layers) for layers in found.values()}
    wanted = stated if stated in lengths else max(lengths, default=0)
    chosen = [name for name, layers in found.items() if len(layers) == wanted]
    if len(chosen) != 1:
        what = (
            f"has {len(chosen)} lists of {wanted} layers ({', '.join(chosen)})" if chosen else "has no list of layers"
        )
        raise ModelError(
            f"{type(model).__name__} {what}, so its decoder layers cannot be told. Use a decoder-only model whose "
            "layers are one ModuleList, or a method that reads no layer."
        )
    return [(f"{chosen[0]}.{number}", layer) for number, layer in enumerate(found[chosen[0]])]


def down_projections(model: nn.Module, layers: Iterable[int]) -> list[str]:
    """Names in ``model`` of the MLP down projections' weights of the chosen layers, counted from 0.

    The down projection is the last matrix of an MLP, the one that writes to the residual stream; a layer of experts has
    one for each, or one tensor for all of them, and a shared expert's beside these. Attention's output projection is
    never among them, nor are biases and the small matrices of an adapter.

    Raises:
        ModelError: a layer that the model does not have, or one in which no down projection is recognised.
    """
    found = decoder_layers(model)
    chosen: list[str] = []
    for number in layers:
        if not 0 <= number < len(found):
            raise ModelError(f"{type(model).__name__} has no layer {number}: it has layers 0 to {len(found) - 1}.")
        prefix, layer = found[number]
        names = [name for name, parameter in layer.named_parameters() if parameter.ndim >= 2]
        down = [f"{prefix}.{name}" for name in names if is_down_projection(name)]
        if not down:
            raise ModelError(
                f"no MLP down projection is recognised in layer {number} of {type(model).__name__}: it has "
                f"{', '.join(names)}, and none of these is called {', '.join(sorted(_DOWN))} outside attention. "
                "Name the parameters to train (training.layers)."
            )
        chosen += down
    return chosen


def is_down_projection(name: str) -> bool:
    """Whether a parameter of a decoder layer, by its name there, is the weight of an MLP's last matrix."""
    parts = [part for part in name.split(".") if part != "base_layer"]  # PEFT's name for the layer it wraps
    if parts[-1] == "weight":
        parts.pop()
    return bool(parts) and parts[-1] in _DOWN and not any(word in part for part in parts for word in _ATTENTION)


def _holds_parameters(layers: nn.ModuleList) -> bool:
    return len(layers) > 0 and all(any(True for _ in layer.parameters()) for layer in layers)


def _stated_layers(model: nn.Module) -> int | None:
    config: Any = getattr(model, "config", None)
    text: Any = config.get_text_config() if hasattr(config, "get_text_config") else config
    return getattr(text, "num_hidden_layers", None)
