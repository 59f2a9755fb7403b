"""An image cut into patches, laid out so that the shard's pixel transform finds its planes already apart."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["patches_of"]


def patches_of(image: NDArray[np.uint8], patch_size: int, merge_size: int) -> NDArray[np.uint8]:
    """Cut an image into patches in the order of the Qwen processors' patchify.

    Patches that the model merges (merge_size x merge_size) stand together, row by row of such groups.

    Args:
        image: [height, width, 3] uint8; both sides are multiples of patch_size * merge_size.
        patch_size: Pixels of a patch's side.
        merge_size: Patches of a group's side.

    Returns:
        [patches, 3, patch_size, patch_size] uint8, a view of memory ordered [row, channel, patch, column]:
        shardformat's `patch_rows` then has nothing to move.
    """
    height, width, channels = image.shape
    num_patches = (height // patch_size) * (width // patch_size)
    planes = np.empty((patch_size, channels, num_patches * patch_size), dtype=np.uint8)
    _fill(image, planes, patch_size, merge_size)
    return planes.reshape(patch_size, channels, num_patches, patch_size).transpose(2, 1, 0, 3)


@numba.njit(cache=True, nogil=True)
def _fill(image: NDArray[np.uint8], planes: NDArray[np.uint8], patch_size: int, merge_size: int) -> None:
    """Walk the image in the order that the planes are written; the patches of a group's row lie side by side in it."""
    height, width, _ = image.shape
    side = patch_size * merge_size
    for row in range(patch_size):
        at = 0
        for group_row in range(height // side):
            for group_column in range(width // side):
                for merge_row in range(merge_size):
                    y = group_row * side + merge_row * patch_size + row
                    left = group_column * side
                    for x in range(left, left + side):
                        planes[row, 0, at] = image[y, x, 0]
                        planes[row, 1, at] = image[y, x, 1]
                        planes[row, 2, at] = image[y, x, 2]
                        at += 1
