"""Stored uint8 pixels back to the floats that the model's own processor returns, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from vlmprep.schema.pixels import PixelRule
from vlmprep.shardformat.memory import pooled_empty

__all__ = ["concatenate", "restore"]

_BLOCK_PATCHES = 256
"""Patches normalized at a time on a CPU: they stay in the second-level cache between the passes."""


def restore(stored: Tensor, rule: PixelRule, dtype: torch.dtype = torch.float32) -> Tensor:
    """Compute the processor's pixel values on the device that holds the stored ones.

    Args:
        stored: [N, C, h, w] uint8 in any memory order, as a pack holds them.
        rule: The manifest's rule for this field.
        dtype: float32 gives the processor's bits; a smaller type is the float32 result cast.

    Returns:
        [N, C * rule.repeat * h * w].
    """
    patches, channels, height, width = stored.shape
    normalize = _normalizer(rule, stored.device)
    pixels = _empty((patches, channels, rule.repeat, height, width), dtype, stored.device)
    block = _BLOCK_PATCHES if stored.device.type == "cpu" else max(patches, 1)
    for start in range(0, patches, block):
        rows = slice(start, start + block)
        pixels[rows].copy_(normalize(stored[rows]).unsqueeze(2).expand_as(pixels[rows]))
    return pixels.view(patches, channels * rule.repeat * height * width)


def concatenate(fields: list[Tensor]) -> Tensor:
    """Stored pixels of several packs in one tensor, in the memory order of the first.

    Args:
        fields: Each [N, C, h, w] uint8.

    Returns:
        [sum of N, C, h, w] uint8.
    """
    if len(fields) == 1:
        return fields[0]
    order = sorted(range(fields[0].ndim), key=fields[0].stride, reverse=True)
    joined = torch.cat([field.permute(order) for field in fields], dim=order.index(0))
    return joined.permute([order.index(axis) for axis in range(len(order))])


def _normalizer(rule: PixelRule, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The rule's arithmetic: [n, C, h, w] uint8 to float32."""
    mean = torch.tensor(rule.mean, dtype=torch.float32).view(-1, 1, 1)
    std = torch.tensor(rule.std, dtype=torch.float32).view(-1, 1, 1)
    if rule.arithmetic == "fused":
        fused_mean, fused_std = (mean * (1.0 / rule.rescale)).to(device), (std * (1.0 / rule.rescale)).to(device)
        return lambda block: block.to(torch.float32).sub_(fused_mean).div_(fused_std)
    mean, std = mean.to(device), std.to(device)
    return lambda block: (block.to(torch.float64) * rule.rescale).to(torch.float32).sub_(mean).div_(std)


def _empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Uninitialized memory; on a CPU from Arrow's pool, where it was touched before."""
    if device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    size = int(np.prod(shape)) * dtype.itemsize
    return torch.from_numpy(pooled_empty((size,))).view(dtype).view(shape)
