"""The pixel transform `patch_rows`: the same uint8 pixels in a form that general codecs compress twice as well.

    natural   [patch, channel, row, column]     as the processor makes patches
    stored    [row, channel, patch, column]     one plane per row of a patch and channel; red and blue minus green,
                                                then each row minus the row above it in its patch, all modulo 256

Neighbouring rows of a patch are alike, and so are the channels: what is left is small numbers around 0. Undoing it is
fifteen large additions in place; the way back to natural order is a view.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["PATCH_ROWS", "fits", "forward", "inverse", "planes_of", "stored_shape"]

PATCH_ROWS = "patch_rows"
"""The transform's name in key.json."""

_BLOCK_PATCHES = 512
"""Patches moved at a time: what they touch stays in the second-level cache."""


def fits(array: NDArray[Any]) -> bool:
    """Whether the transform is defined for an array: uint8 [patches, 3, height, width], not empty."""
    return array.dtype == np.uint8 and array.ndim == 4 and array.shape[1] == 3 and array.size > 0


def stored_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the stored form of natural [patches, channels, height, width]."""
    patches, channels, height, width = shape
    return (height, channels, patches, width)


def forward(natural: NDArray[np.uint8], stored: NDArray[np.uint8]) -> None:
    """Write the stored form of natural pixels.

    Args:
        natural: [patches, 3, height, width] uint8.
        stored: [height, 3, patches, width] uint8, C-ordered; overwritten.
    """
    planes = natural.transpose(2, 1, 0, 3)
    if not planes.flags.c_contiguous:  # families lay patches out as a view of planes: then there is nothing to reorder
        _to_planes(natural, stored)
        planes = stored
    np.subtract(planes[:, 0], planes[:, 1], out=stored[:, 0])
    np.subtract(planes[:, 2], planes[:, 1], out=stored[:, 2])
    stored[:, 1] = planes[:, 1]
    for row in range(len(stored) - 1, 0, -1):
        stored[row] -= stored[row - 1]


def inverse(stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Undo the transform in place.

    Args:
        stored: [height, 3, patches, width] uint8; afterwards it holds plain pixels in the same order.

    Returns:
        [patches, 3, height, width] uint8, a view of `stored`.

    Raises:
        ValueError: The array is no result of `forward`.
    """
    if not fits(stored):
        raise ValueError(
            f"{PATCH_ROWS} makes uint8 [height, 3, patches, width], got {stored.dtype.name} {stored.shape}"
        )
    for row in range(1, len(stored)):
        stored[row] += stored[row - 1]
    stored[:, 0] += stored[:, 1]
    stored[:, 2] += stored[:, 1]
    return stored.transpose(2, 1, 0, 3)


def planes_of(natural: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Natural pixels as [height, 3, patches * width]: a view where families laid them out so."""
    patches, channels, height, width = natural.shape
    planes = natural.transpose(2, 1, 0, 3)
    if not planes.flags.c_contiguous:
        planes = np.empty(stored_shape(natural.shape), dtype=np.uint8)
        _to_planes(natural, planes)
    return planes.reshape(height, channels, patches * width)


def _to_planes(natural: NDArray[np.uint8], stored: NDArray[np.uint8]) -> None:
    """Copy [patches, channels, height, width] to [height, channels, patches, width], a patch's row as one item."""
    row = np.dtype((np.void, natural.shape[3]))
    source = np.ascontiguousarray(natural).view(row)[..., 0]
    target = stored.view(row)[..., 0]
    for start in range(0, len(source), _BLOCK_PATCHES):
        block = slice(start, start + _BLOCK_PATCHES)
        target[:, :, block] = source[block].transpose(2, 1, 0)
