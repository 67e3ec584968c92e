"""Optimizers by name: which packages and devices they need, and how many bytes their state takes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from expunge.errors import ConfigError, did_you_mean
from expunge.extras import require

if TYPE_CHECKING:
    import torch

    from expunge.training.settings import TrainingSettings

BITSANDBYTES_AT_LEAST = "0.46.1"
TORCHAO_AT_LEAST = "0.11.0"

_BITSANDBYTES = frozenset(
    [
        "adamw_bnb_8bit",
        "adamw_8bit",
        "paged_adamw_32bit",
        "paged_adamw_8bit",
        "ademamix",
        "ademamix_8bit",
        "paged_ademamix_32bit",
        "paged_ademamix_8bit",
        "lion_32bit",
        "lion_8bit",
        "paged_lion_32bit",
        "paged_lion_8bit",
        "rmsprop_bnb",
        "rmsprop_bnb_8bit",
        "rmsprop_bnb_32bit",
    ]
)
_TORCHAO = frozenset({"adamw_torch_8bit", "adamw_torch_4bit"})
_MODULES = {
    "adamw_torch_xla": "torch_xla",
    "adamw_torch_npu_fused": "torch_npu",
    "adamw_anyprecision": "torchdistx",
    "grokadamw": "grokadamw",
    "schedule_free_radam": "schedulefree",
    "schedule_free_adamw": "schedulefree",
    "schedule_free_sgd": "schedulefree",
    "stable_adamw": "optimi",
}
_PACKAGES = {"optimi": "torch-optimi"}  # where a package is not called what it is imported as
_REFUSED = {
    "galore": "it needs a list of target modules, for which there is no setting",
    "apollo": "it needs a list of target modules, for which there is no setting",
    "lomo": "it updates weights within the backward pass, where gradients cannot be added up, clipped or checked",
    "adalomo": "it updates weights within the backward pass, where gradients cannot be added up, clipped or checked",
}


def check_optimizer(settings: TrainingSettings, device: torch.device | str = "cpu") -> None:
    """Refuse an optimizer that transformers does not know, or that cannot work here.

    Raises:
        ConfigError: an unknown name; a package that is missing or too old; a device that the package has no kernels
            for; an optimizer that the training loop cannot drive.
    """
    from transformers.training_args import OptimizerNames

    name, kind = settings.optimizer, str(device).split(":")[0]
    known = [str(one.value) for one in OptimizerNames]
    if name not in known:
        usable = [one for one in known if not one.startswith(tuple(_REFUSED))]
        raise ConfigError(
            f"training.optimizer={name!r}: transformers has no such optimizer. {did_you_mean(name, usable)}"
        )
    wanted, otherwise = f"training.optimizer={name}", "leave training.optimizer at adamw_torch_fused"
    for family, why in _REFUSED.items():
        if name.startswith(family):
            raise ConfigError(f"{wanted} cannot be used: {why}. For less memory set training.optimizer=adamw_bnb_8bit.")
    if name in _BITSANDBYTES:
        require("bitsandbytes", at_least=BITSANDBYTES_AT_LEAST, extra="quant", wanted_by=wanted, otherwise=otherwise)
        if name.startswith("paged") and kind != "cuda":
            raise ConfigError(
                f"{wanted} moves its state between a GPU and host memory, and this run is on {kind}. "
                f"Set training.optimizer={_unpaged(name)}."
            )
        problem = _try_bitsandbytes(name, kind)
        if problem:
            raise ConfigError(
                f"{wanted}: bitsandbytes cannot take a step on {kind} ({problem}). "
                f"Update it (pip install -U bitsandbytes), or {otherwise}."
            )
    elif name in _TORCHAO:
        require("torchao", at_least=TORCHAO_AT_LEAST, extra="quant", wanted_by=wanted, otherwise=otherwise)
        missing = _missing_for_compilation(kind)
        if missing:
            raise ConfigError(
                f"{wanted}: torchao compiles its step with torch.compile, which needs {missing} on {kind}. "
                f"Install it, or set training.optimizer=adamw_bnb_8bit."
            )
    elif name in _MODULES and find_spec(_MODULES[name]) is None:
        package = _PACKAGES.get(_MODULES[name], _MODULES[name])
        raise ConfigError(f"{wanted} needs the package {package}, which is not installed. Install it, or {otherwise}.")


@contextmanager
def own_overrides(name: str) -> Iterator[None]:
    """Inside, bitsandbytes' list of parameters that keep a 32-bit state is this training run's alone.

    transformers enters every embedding into that list, which is one for the whole process: it would hold on to models
    that are done with, and a later run would take its entries, found by place, for its own.
    """
    if name not in _BITSANDBYTES:
        yield
        return
    import bitsandbytes

    manager: Any = bitsandbytes.optim.GlobalOptimManager.get_instance()
    before = {key: getattr(manager, key) for key in ("pid2config", "index2config", "module_weight_config_triple")}
    manager.initialize()
    try:
        yield
    finally:
        for key, value in before.items():
            setattr(manager, key, value)


@dataclass(frozen=True)
class StateSize:
    """Bytes of optimizer state for each trained value: of small-state optimizers, ``embedding`` for values of an
    embedding (bitsandbytes keeps those in 32 bits)."""

    value: float
    embedding: float


_ADAM, _ADAM_8 = StateSize(8, 8), StateSize(2.03, 8)  # two moments; a float32 scale for each 256 codes
_STATE = {
    "adafactor": StateSize(0.01, 0.01),  # one row and one column of second moments a matrix
    "sgd": StateSize(0, 0),
    "adagrad": StateSize(4, 4),
    "rmsprop": StateSize(4, 4),
    "schedule_free_sgd": StateSize(4, 4),
    "grokadamw": StateSize(12, 12),
    "adamw_torch_8bit": StateSize(2.03, 2.03),
    "adamw_torch_4bit": StateSize(1.03, 1.03),
    "adamw_bnb_8bit": _ADAM_8,
    "adamw_8bit": _ADAM_8,
    "paged_adamw_8bit": _ADAM_8,
    "ademamix": StateSize(12, 12),
    "paged_ademamix_32bit": StateSize(12, 12),
    "ademamix_8bit": StateSize(3.05, 12),
    "paged_ademamix_8bit": StateSize(3.05, 12),
    "lion_32bit": StateSize(4, 4),
    "paged_lion_32bit": StateSize(4, 4),
    "lion_8bit": StateSize(1.02, 4),
    "paged_lion_8bit": StateSize(1.02, 4),
    "rmsprop_bnb": StateSize(4, 4),
    "rmsprop_bnb_32bit": StateSize(4, 4),
    "rmsprop_bnb_8bit": StateSize(1.02, 4),
}


def state_size(name: str) -> StateSize:
    """What the state of an optimizer takes; two float32 moments (Adam) for names that are not listed."""
    return _STATE.get(name, _ADAM)


@lru_cache(maxsize=8)
def _try_bitsandbytes(name: str, kind: str) -> str:
    """Take one step with the optimizer; what went wrong, empty where nothing did. The package decides by itself which
    devices it has kernels for, and that changes from release to release."""
    import torch

    try:
        import bitsandbytes

        families = {"ademamix": "AdEMAMix", "lion": "Lion", "rmsprop": "RMSprop"}
        kind_name = next((made for family, made in families.items() if family in name), "AdamW")
        parameter = torch.nn.Parameter(torch.zeros(8192, device=kind))
        parameter.grad = torch.ones_like(parameter)
        optimizer = getattr(bitsandbytes.optim, kind_name)([parameter], lr=1.0, optim_bits=8 if "8bit" in name else 32)
        optimizer.step()
        moved = bool((parameter < 0).all())
    except Exception as error:  # whatever a native library throws
        return f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return "" if moved else "the step changed nothing"


def _missing_for_compilation(kind: str) -> str | None:
    if kind == "cuda":
        return None if find_spec("triton") is not None else "the package triton"
    compilers = [os.environ.get("CXX", "g++"), "clang++", "c++", "cl"]
    return None if any(shutil.which(one.split()[0]) for one in compilers if one) else "a C++ compiler"


def _unpaged(name: str) -> str:
    plain = name.removeprefix("paged_")
    return {"adamw_32bit": "adamw_torch_fused", "adamw_8bit": "adamw_bnb_8bit", "ademamix_32bit": "ademamix"}.get(
        plain, plain
    )
