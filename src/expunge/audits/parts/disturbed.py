"""Matrices with their smallest weights left out, and with noise on them."""

from __future__ import annotations

import torch
from torch import Tensor


def without_smallest(weight: Tensor, share: float) -> Tensor:
    """Each matrix of ``weight`` [.., R, C] with zeros for the floor(share R C) weights of smallest magnitude, and for
    those that are no larger than the largest of them."""
    sizes = weight.abs().flatten(-2)
    count = int(share * sizes.shape[-1])
    if count < 1:
        return weight.clone()
    # in float32: kthvalue has no kernel for some 16-bit types
    most = sizes.float().kthvalue(count, dim=-1, keepdim=True).values.unsqueeze(-1)
    return torch.where(weight.abs().float() <= most, torch.zeros_like(weight), weight)


def with_noise(weight: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    """``weight`` [.., R, C] plus Gaussian noise of ``scale`` times the standard deviation of each matrix; the numbers
    are drawn on the CPU, so that they do not depend on the device."""
    noise = torch.randn(weight.shape, generator=generator).to(weight.device)
    deviation = weight.float().std(dim=(-2, -1), keepdim=True)
    return (weight.float() + scale * deviation * noise).to(weight.dtype)
