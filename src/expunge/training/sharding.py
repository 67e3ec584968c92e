"""A model's parameters, gradients and optimizer state spread over the processes (PyTorch's FSDP2).

What is trained is a twin: the same modules, of whose parameters every process holds a part. The model itself rests
meanwhile, so that it needs no putting together again, whatever happens.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from expunge.distributed import join, processes
from expunge.errors import ConfigError
from expunge.models.anatomy import decoder_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from expunge.training.settings import TrainingSettings

OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop")
"""Optimizers that work on each number by itself, so that a part of a parameter can be updated without the rest."""


def check_sharding(settings: TrainingSettings, model: PreTrainedModel) -> None:
    """Refuse what cannot be sharded, with one process too: a run may go on with another number of them.

    Raises:
        ConfigError: all that is wrong, in one message.
        ModelError: the model's layers cannot be told.
    """
    if settings.sharding == "none":
        return
    problems = []
    if settings.optimizer not in OPTIMIZERS:
        problems.append(f"training.optimizer={settings.optimizer} needs whole parameters. Use {', '.join(OPTIMIZERS)}.")
    if settings.reference != "cached":
        problems.append(f"training.reference={settings.reference} needs a whole model. Use cached.")
    if getattr(model.config, "quantization_config", None) is not None:
        problems.append("a quantised model's weights cannot be split. Load it with model.quantization=none.")
    decoder_layers(model)
    if problems:
        raise ConfigError("\n".join(f"training.sharding=full: {problem}" for problem in problems))


@contextmanager
def sharded_twin(
    model: PreTrainedModel, trained: Collection[str], widened: Collection[str]
) -> Iterator[PreTrainedModel]:
    """A model with the modules of ``model`` and parameters that are spread over all processes, in evaluation or
    training mode as ``model`` is. Parameters named in ``trained`` are trainable, those in ``widened`` float32.

    While a layer is split, its parameters are there once more in full, and never those of all layers. Buffers are
    copied. On a GPU the model's own parameters wait in host memory; on exit they are where they were, unchanged.
    """
    twin = _split(model, trained, widened)
    with _in_host_memory(model):
        yield twin


def _split(model: PreTrainedModel, trained: Collection[str], widened: Collection[str]) -> Any:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    join()
    mesh = init_device_mesh(model.device.type, (processes(),))
    # Parameters that share the originals' memory: what is tied stays tied, and nothing is copied but each one's part.
    named = dict(model.named_parameters())
    aliases = {name: nn.Parameter(p.data, requires_grad=name in trained) for name, p in named.items()}
    twin: Any = copy.deepcopy(model, {id(p): aliases[name] for name, p in named.items()})
    wide = {id(aliases[name]) for name in widened}
    for unit in [*(layer for _, layer in decoder_layers(twin)), twin]:
        for parameter in unit.parameters():
            if id(parameter) in wide:
                parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
        # The head, which sits in the root, runs several times within a forward and again at once in its backward.
        fully_shard(unit, mesh=mesh, reshard_after_forward=unit is not twin)
    twin._is_accelerate_prepared = True  # accelerate would wrap it for data-parallel processes
    return twin


@contextmanager
def _in_host_memory(model: nn.Module) -> Iterator[None]:
    places = [(parameter, parameter.device) for parameter in model.parameters()]
    try:
        for parameter, _ in places:
            parameter.data = parameter.data.to("cpu")
        yield
    finally:
        for parameter, device in places:
            parameter.data = parameter.data.to(device)


def is_sharded(model: nn.Module) -> bool:
    """Whether ``model`` is a sharded twin."""
    return hasattr(model, "unshard") and hasattr(model, "reshard")


@contextmanager
def gathered_root(model: nn.Module) -> Iterator[None]:
    """Inside, what is outside the layers of a sharded twin (embeddings, head) is whole; nothing for another model."""
    if not is_sharded(model):
        yield
        return
    model.unshard()  # type: ignore[operator]
    try:
        yield
    finally:
        rest(model)


def rest(model: nn.Module) -> None:
    """Let go of the whole parameters that a forward without a backward leaves in a sharded twin."""
    if is_sharded(model):
        model.reshard()  # type: ignore[operator]


def whole(value: Tensor) -> Tensor:
    """All of a parameter that is spread over the processes (every process asks for it), or the tensor itself."""
    full = getattr(value.detach(), "full_tensor", None)
    return value.detach() if full is None else full()


def own_part(value: Tensor) -> Tensor:
    """What this process holds of a parameter."""
    local = getattr(value.detach(), "to_local", None)
    return value.detach() if local is None else local()


class Whole(Mapping[str, Tensor]):
    """The parameters of a model by name, whole: those of a sharded twin are put together one by one as they are read,
    by all processes in the same order."""

    def __init__(self, model: nn.Module, names: Iterable[str] | None = None) -> None:
        found = dict(model.named_parameters())
        self._parameters = found if names is None else {name: found[name] for name in names}

    def __getitem__(self, name: str) -> Tensor:
        return whole(self._parameters[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """As a model has them."""
        yield from self.items()
