"""A model's own weights, exchanged for a time: matrices of its layers, erasures as plain weights, exact ways back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from expunge.audits.interface import Audited, ModelName
from expunge.errors import ModelError
from expunge.models.anatomy import decoder_layers
from expunge.models.state import evaluating, marked

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LISTED = 5


def matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """The matrices of the decoder layers by name (attention, MLPs, routers; experts [E, .., ..]), in the model's order:
    no embeddings, head, norms or biases.

    Raises:
        ModelError: some are quantised or offloaded; they are named.
    """
    layers = tuple(f"{prefix}." for prefix, _ in decoder_layers(model))
    found = {
        name: parameter
        for name, parameter in model.named_parameters()
        if name.startswith(layers) and parameter.ndim >= 2 and not name.endswith("bias")
    }
    problems = [
        f"{name} is {'offloaded' if parameter.is_meta else 'quantised'}"
        for name, parameter in found.items()
        if parameter.is_meta or not parameter.is_floating_point()
    ]
    if problems:
        more = f" and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise ModelError(
            f"these weights cannot be changed for an audit: {'; '.join(problems[:_LISTED])}{more}. Load the model "
            "without quantisation and offloading."
        )
    return found


def inputs_first(model: nn.Module, name: str) -> bool:
    """Whether a matrix is held as [.., inputs, outputs], not as [.., outputs, inputs]: transformers' ``Conv1D``, and
    experts of some families, which say so (``is_transposed``) or tell it by their shapes."""
    from transformers.pytorch_utils import Conv1D

    module = model.get_submodule(name.rpartition(".")[0])
    if isinstance(module, Conv1D):
        return True
    if module.get_parameter(name.rpartition(".")[2]).ndim < 3:
        return False
    stated = getattr(module, "is_transposed", None)
    return bool(stated) if stated is not None else _transposed_experts(module)


def _transposed_experts(experts: nn.Module) -> bool:
    """Whether a gate and an up projection beside each other, 2 I wide, are the last axis: what goes into the down
    projection, I, is then its first."""
    both, down = (getattr(experts, name, None) for name in ("gate_up_proj", "down_proj"))
    if not isinstance(both, nn.Parameter) or not isinstance(down, nn.Parameter):
        return False
    return both.shape[-1] == 2 * down.shape[-2]


@contextmanager
def exchanged(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the named parameters hold ``values``. Tensors change places, so that on exit, after an exception too,
    every bit is back."""
    named = dict(model.named_parameters())
    own = {name: named[name].data for name in values}
    try:
        for name, value in values.items():
            named[name].data = value.to(own[name])
        yield
    finally:
        for name, value in own.items():
            named[name].data = value


@contextmanager
def with_plain_weights(audited: Audited, name: ModelName) -> Iterator[PreTrainedModel]:
    """:meth:`Audited.model`, but an erasure that is an adapter is added into the weights it stands beside, as whoever
    is given the erased model may do; afterwards every bit is back.

    Raises:
        ErasureError: the adapter was made for other weights.
    """
    from expunge.erasures.adapter import Adapter

    erasure: Any = audited.erasure
    if name != "erased" or not isinstance(erasure, Adapter):
        with audited.model(name) as model:
            yield model
        return
    model = audited.target
    named = dict(model.named_parameters())
    sums = {f"{module}.weight": named[f"{module}.weight"] for module in erasure.config["target_modules"]}
    own = {weight: parameter.data for weight, parameter in sums.items()}
    try:
        for parameter in sums.values():
            parameter.data = parameter.data.clone()
        with erasure.attached(model) as adapted:
            adapted.merge_adapter()  # type: ignore[operator]
        # the adapter's modules are gone again, the sums stay
        with marked(model, erasure.kind), evaluating(model):
            yield model
    finally:
        for weight, value in own.items():
            sums[weight].data = value
