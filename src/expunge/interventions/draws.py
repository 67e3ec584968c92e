"""Random numbers without a state: each is a function of a seed and of what it is drawn for, on any device.

A row's draws so depend on nothing else in its batch, on no padding, and on no forward before.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

# The multipliers of the 64-bit finaliser of MurmurHash3 (Appleby), as signed integers.
_FIRST, _SECOND = 0xFF51AFD7ED558CCD - 2**64, 0xC4CEB9FE1A85EC53 - 2**64
_BITS = 24  # of a float32's mantissa


def token_keys(seed: int, positions: Tensor, ids: Tensor | None) -> Tensor:
    """[..] int64, a key for each token by its position and id ([..] both; no ids: by its position alone)."""
    keys = _mixed(positions + _number(f"{seed}"))
    return keys if ids is None else _mixed(keys ^ (ids.to(torch.int64) + 1))


def neuron_keys(site: str, neurons: Tensor) -> Tensor:
    """[K] odd int64, a key for each of a site's neurons [K]."""
    return _mixed(neurons.to(torch.int64) + _number(site)) | 1


def uniform(tokens: Tensor, neurons: Tensor) -> Tensor:
    """[.., K] float32 in (0, 1), for each of the tokens with keys [..] and the neurons with keys [K]."""
    product = tokens[..., None] * neurons  # modulo 2^64: multiply-shift hashing, of which the upper bits are good
    high = (product ^ _shifted(product, 32)) * _SECOND
    return (_shifted(high, 64 - _BITS).float() + 0.5) * 2.0**-_BITS


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little", signed=True)


def _shifted(values: Tensor, by: int) -> Tensor:
    """A shift to the right that fills with zeros."""
    return (values >> by) & ((1 << (64 - by)) - 1)


def _mixed(values: Tensor) -> Tensor:
    values = (values ^ _shifted(values, 33)) * _FIRST
    values = (values ^ _shifted(values, 33)) * _SECOND
    return values ^ _shifted(values, 33)
