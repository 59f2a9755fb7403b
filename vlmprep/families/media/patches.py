"""Images and clips cut into patches, laid out so that the shard's pixel transform finds its planes already apart."""

from __future__ import annotations

from typing import Any

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


def _fill(
    image: NDArray[np.uint8], planes: NDArray[np.uint8], patch_size: int, merge_size: int, top: int, left: int
) -> None:
    """Cut one frame into its planes, [patch_size, 3, ...] of them from `top` on, columns from `left` on."""
    height, width, _ = image.shape
    side = patch_size * merge_size
    word = np.uint32 if side % 4 == 0 else np.uint8  # what is moved at a time; all starts are multiples of a side
    line = np.empty(CHANNELS * width, dtype=np.uint8)
    _fill_words(
        np.ascontiguousarray(image).reshape(height, CHANNELS * width),
        line,
        line.view(word),
        planes[top : top + patch_size].reshape(CHANNELS * patch_size, -1).view(word),
        (patch_size, merge_size, left // word().itemsize),
        (0,) * (side // word().itemsize),
    )


@numba.njit(cache=True, nogil=True)
def _fill_words(
    image: NDArray[np.uint8],
    line: NDArray[np.uint8],
    line_words: NDArray[Any],
    planes: NDArray[Any],
    sizes: tuple[int, int, int],
    group: tuple[int, ...],
) -> None:
    """Take each line of the image apart by channels, then move it, a group of patches at a time.

    Args:
        image: [height, width * 3].
        line: [3 * width], overwritten.
        line_words: The same memory in words.
        planes: [patch row and channel, columns in words].
        sizes: Patch size, merge size, and the first column in words.
        group: As many entries as a group of patches is wide, in words: a length that the compiler knows.
    """
    patch_size, merge_size, left = sizes
    words = len(line_words) // 3
    group_words = len(group)
    for y in range(len(image)):
        _split_channels(image[y], line)
        merged_line, row = divmod(y, patch_size)
        group_row, merge_row = divmod(merged_line, merge_size)
        for channel in range(3):
            out = planes[3 * row + channel]
            at = left + group_row * words * merge_size + merge_row * group_words
            start = channel * words
            for _ in range(words // group_words):
                for word in range(len(group)):
                    out[at + word] = line_words[start + word]
                start += group_words
                at += merge_size * group_words


@numba.njit(cache=True, nogil=True)
def _split_channels(pixels: NDArray[np.uint8], line: NDArray[np.uint8]) -> None:
    """[width * 3] to [3 * width]; so plain that the compiler works on many pixels at once."""
    width = len(line) // 3
    for x in range(width):
        line[x] = pixels[3 * x]
        line[width + x] = pixels[3 * x + 1]
        line[2 * width + x] = pixels[3 * x + 2]
