"""Images and clips cut into patches, laid out so that the shard's pixel transform finds its planes already apart."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["PatchPlanes", "patches_of"]

CHANNELS = 3


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
    height, width, _ = image.shape
    planes = PatchPlanes((1, height // patch_size, width // patch_size), patch_size, merge_size, 1)
    planes.put(image)
    return planes.patches


class PatchPlanes:
    """The patches of a clip, filled frame by frame.

    A patch of a clip holds some frames in a row: its rows are those of the first frame, then those of the next.

    Args:
        grid: Patches along time, height and width.
        patch_size: Pixels of a patch's side.
        merge_size: Patches of a group's side.
        temporal_patch_size: Frames of a patch.
    """

    def __init__(self, grid: tuple[int, int, int], patch_size: int, merge_size: int, temporal_patch_size: int) -> None:
        steps, rows, columns = grid
        self._num_patches = steps * rows * columns
        self._step_columns = rows * columns * patch_size
        self._patch_size, self._merge_size, self._temporal = patch_size, merge_size, temporal_patch_size
        shape = (temporal_patch_size * patch_size, CHANNELS, self._num_patches * patch_size)
        self._planes = np.empty(shape, dtype=np.uint8)  # [frame and row, channel, patch and column]
        self._num_frames = 0

    def put(self, image: NDArray[np.uint8]) -> None:
        """Cut the next frame, [height, width, 3] uint8."""
        step, frame = divmod(self._num_frames, self._temporal)
        top, left = frame * self._patch_size, step * self._step_columns
        _fill(image, self._planes, self._patch_size, self._merge_size, top, left)
        self._num_frames += 1

    @property
    def patches(self) -> NDArray[np.uint8]:
        """[patches, 3, temporal_patch_size * patch_size, patch_size] uint8, a view; every frame must be there."""
        assert self._num_frames * self._step_columns * self._patch_size == self._planes.size // CHANNELS, "frames lack"
        side = self._patch_size
        planes = self._planes.reshape(len(self._planes), CHANNELS, self._num_patches, side)
        return planes.transpose(2, 1, 0, 3)


@numba.njit(cache=True, nogil=True)
def _fill(
    image: NDArray[np.uint8], planes: NDArray[np.uint8], patch_size: int, merge_size: int, top: int, left: int
) -> None:
    """Walk the image in the order that the planes are written; the patches of a group's row lie side by side in it."""
    height, width, _ = image.shape
    side = patch_size * merge_size
    for row in range(patch_size):
        at = left
        for group_row in range(height // side):
            for group_column in range(width // side):
                for merge_row in range(merge_size):
                    y = group_row * side + merge_row * patch_size + row
                    first = group_column * side
                    for x in range(first, first + side):
                        planes[top + row, 0, at] = image[y, x, 0]
                        planes[top + row, 1, at] = image[y, x, 1]
                        planes[top + row, 2, at] = image[y, x, 2]
                        at += 1
