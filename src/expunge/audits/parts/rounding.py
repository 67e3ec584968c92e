"""Weights rounded to few bits, and what that does to a small change of them.

Symmetric round to nearest, without calibration data: a code is round(w / s), half to even, and the weight becomes code
times s. ``int8`` has codes from -127 to 127 and s = max|w| / 127 of each output channel, ``int4`` codes from -7 to 7
and s = max|w| / 7 of each group of inputs of an output channel. ``nf4`` is bitsandbytes' 4-bit NormalFloat (arXiv
2305.14314) in groups. That such rounding can undo an erasure is the finding of arXiv 2410.16454.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from expunge.errors import ConfigError
from expunge.extras import installed, require

Scheme = Literal["int8", "int4", "nf4"]
Through = Literal["own", "torchao", "bitsandbytes"]

_MOST = {"int8": 127, "int4": 7}
TORCHAO_AT_LEAST = "0.15"


@dataclass(frozen=True)
class Rounded:
    """A rounded matrix: ``values`` in its shape and precision; ``codes`` int8 [.., outputs, inputs] where the package
    that rounded it tells them, else None."""

    values: Tensor
    codes: Tensor | None


def rounder(scheme: Scheme, group: int, through: Through) -> Callable[[Tensor], Rounded]:
    """A function of one matrix [.., outputs, inputs], on its own device.

    Args:
        group: inputs that share a scale, in 4 bits; a matrix of fewer inputs is one group.
        through: whose arithmetic.

    Raises:
        ConfigError: the package is missing or has no such scheme.
    """
    made: dict[tuple[str, str], Callable[[Tensor], Rounded]] = {
        ("int8", "own"): lambda weight: round_to_nearest(weight, _MOST["int8"], weight.shape[-1]),
        ("int4", "own"): lambda weight: round_to_nearest(weight, _MOST["int4"], group),
        ("int8", "torchao"): lambda weight: _by_torchao(weight, "int8", group),
        ("int4", "torchao"): lambda weight: _by_torchao(weight, "int4", group),
        ("nf4", "bitsandbytes"): lambda weight: _by_bitsandbytes(weight, group),
    }
    if (scheme, through) not in made:
        known = ", ".join(one for name, one in made if name == scheme)
        raise ConfigError(f"{scheme} is not rounded through {through}. Choose {known}.")
    if through == "torchao":
        require(
            "torchao",
            at_least=TORCHAO_AT_LEAST,
            extra="quant",
            wanted_by="audits.quantization.through=torchao",
            otherwise="set audits.quantization.through=own",
        )
    if through == "bitsandbytes":
        from expunge.models.quantised import BITSANDBYTES_AT_LEAST

        require(
            "bitsandbytes",
            at_least=BITSANDBYTES_AT_LEAST,
            extra="quant",
            wanted_by="nf4 in audits.quantization.schemes",
            otherwise="choose int8 and int4",
        )
    return made[scheme, through]


def refused(round_: Callable[[Tensor], Rounded], sizes: Iterable[tuple[int, torch.dtype, torch.device]]) -> str:
    """Why matrices of so many inputs, in such a precision and on such a device, cannot be rounded; empty where they
    can. It is tried with one output channel of zeros: packages say so only when they round."""
    for inputs, precision, device in sorted(set(sizes), key=str):
        try:
            round_(torch.zeros(1, inputs, dtype=precision, device=device))
        except ConfigError as error:
            return str(error)
    return ""


def usual_backend(scheme: Scheme) -> Through:
    """bitsandbytes for nf4, torchao for the others where it is installed and new enough, else our own arithmetic."""
    if scheme == "nf4":
        return "bitsandbytes"
    if installed("torchao") is None:
        return "own"
    try:
        rounder(scheme, 64, "torchao")
    except ConfigError:
        return "own"
    return "torchao"


def round_to_nearest(weight: Tensor, most: int, group: int) -> Rounded:
    """Symmetric round to nearest with codes from -``most`` to ``most``, a scale for each ``group`` of inputs.

    Args:
        weight: [.., outputs, inputs]; the last group of a row may be smaller.
    """
    *shape, inputs = weight.shape
    group = min(group, inputs)
    # zeros at the end change no largest value
    padded = functional.pad(weight.detach().float(), (0, -inputs % group))
    parts = padded.reshape(*shape, -1, group)
    scale = parts.abs().amax(-1, keepdim=True) / most
    scale = torch.where(scale > 0, scale, 1.0)
    codes = (parts / scale).round().clamp(-most, most)
    values = (codes * scale).flatten(-2)[..., :inputs]
    return Rounded(values.to(weight.dtype), codes.flatten(-2)[..., :inputs].to(torch.int8))


def _by_torchao(weight: Tensor, scheme: str, group: int) -> Rounded:
    from torchao.quantization import (  # type: ignore[import-not-found]
        IntxWeightOnlyConfig,
        PerAxis,
        PerGroup,
        quantize_,
    )

    size = min(group, weight.shape[-1])
    if scheme == "int4" and weight.shape[-1] % size:
        raise ConfigError(
            f"audits.quantization.group={group}: torchao rounds whole groups, and {weight.shape[-1]} inputs are no "
            f"multiple of {size}. Set another group, or audits.quantization.through=own."
        )
    small: Any = torch.int4  # type: ignore[attr-defined]
    config: Any = (
        IntxWeightOnlyConfig(weight_dtype=torch.int8, granularity=PerAxis(0))
        if scheme == "int8"
        else IntxWeightOnlyConfig(weight_dtype=small, granularity=PerGroup(size))
    )
    rows = weight.detach().reshape(-1, weight.shape[-1])  # experts, too, have a scale for each output channel
    holder = torch.nn.Linear(rows.shape[1], rows.shape[0], bias=False, device="meta")
    holder.weight = torch.nn.Parameter(rows.clone(), requires_grad=False)
    quantize_(torch.nn.Sequential(holder), config)
    values: Any = holder.weight
    return Rounded(values.dequantize().to(weight.dtype).reshape(weight.shape), None)


def _by_bitsandbytes(weight: Tensor, group: int) -> Rounded:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    try:
        codes, state = quantize_4bit(weight.detach().contiguous(), blocksize=group, quant_type="nf4")
    except ValueError as error:
        raise ConfigError(
            f"audits.quantization.group={group}: bitsandbytes has no such groups ({error}). Set 32, 64 or 128."
        ) from error
    return Rounded(dequantize_4bit(codes, state).to(weight.dtype).reshape(weight.shape), None)


@dataclass
class Undone:
    """How many weights an erasure changed, and which of them rounding gives the target's value again.

    ``changed`` weights differ from the target's; ``same_value`` of them are exactly the rounded target's afterwards;
    ``same_code`` have its code, though the scale may differ (None where codes are not known).
    """

    changed: int = 0
    same_value: int = 0
    same_code: int | None = 0

    def add(self, erased: Tensor, target: Tensor, round_: Callable[[Tensor], Rounded]) -> None:
        """Count one matrix [.., outputs, inputs], before rounding, of both models."""
        target = target.to(erased)
        changed = erased != target
        self.changed += int(changed.sum())
        if not bool(changed.any()):
            return
        ours, theirs = round_(erased), round_(target)
        self.same_value += int((changed & (ours.values == theirs.values)).sum())
        if ours.codes is None or theirs.codes is None or self.same_code is None:
            self.same_code = None
        else:
            self.same_code += int((changed & (ours.codes == theirs.codes)).sum())

    def as_dict(self) -> dict[str, float | int | None]:
        """Counts and shares of the changed weights; None where nothing changed or no codes are known."""
        return {
            "changed": self.changed,
            "share_of_same_value": self._share(self.same_value),
            "share_of_same_code": self._share(self.same_code),
        }

    def _share(self, count: int | None) -> float | None:
        return None if count is None or not self.changed else count / self.changed
