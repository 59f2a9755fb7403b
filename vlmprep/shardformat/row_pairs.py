"""The pixel transform `row_pairs`: differences like those of `patch_rows`, cut into nibbles.

    natural   [patch, channel, row, column]         as the processor makes patches
    stored    [half, pair, channel, patch, column]  rows in pairs: the high nibbles of both in one byte, then the low ones

Green, green minus red and green minus blue, each row minus the row above it in its patch, plus 8, all modulo 256. Most of these
numbers are 0 to 15: so half of the bytes are long runs of zeros, which cost a codec nothing, and in the other half it codes two
pixels with every symbol. Smaller than `patch_rows` under either codec, and packed half as fast again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmprep.shardformat import patch_rows
from vlmprep.shardformat.memory import pooled_empty

__all__ = ["ROW_PAIRS", "fits", "forward", "inverse", "stored_shape"]

ROW_PAIRS = "row_pairs"
"""The transform's name in key.json."""

_CENTRE = 8
"""Added to differences: -8 to 7 have high nibble 0."""
_WORD = np.dtype("<u8")
_LOW, _HIGH, _NIBBLE = np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0xF0F0F0F0F0F0F0F0), np.uint64(4)
_BLOCK_WORDS = {"forward": 1 << 13, "inverse": 1 << 15}
"""Of a row, worked on at a time: few enough to stay near, many enough for NumPy."""


def fits(array: NDArray[Any]) -> bool:
    """Whether the transform is defined for an array: uint8 [patches, 3, even, width] whose rows are whole 8-byte words."""
    if not patch_rows.fits(array):
        return False
    _, _, height, width = array.shape
    return bool(height % 2 == 0 and len(array) * width % _WORD.itemsize == 0)


def stored_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the stored form of natural [patches, channels, height, width]."""
    patches, channels, height, width = shape
    return (2, height // 2, channels, patches, width)


def forward(natural: NDArray[np.uint8], stored: NDArray[np.uint8]) -> None:
    """Write the stored form of natural pixels.

    Args:
        natural: [patches, 3, height, width] uint8.
        stored: [2, height / 2, 3, patches, width] uint8, C-ordered; overwritten.
    """
    patches, channels, height, width = natural.shape
    planes = patch_rows.planes_of(natural)
    halves = stored.reshape(2, height // 2, channels, patches * width)
    step = min(_BLOCK_WORDS["forward"] * _WORD.itemsize, patches * width)
    spare = np.empty((height, channels, step), dtype=np.uint8)  # used for one block after the other
    for start in range(0, patches * width, step):
        place = slice(start, min(start + step, patches * width))
        levels = spare[..., : place.stop - start]
        _centred(planes[..., place], levels)
        _cut(levels, halves[:, :, :, place])


def inverse(stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Undo the transform.

    Args:
        stored: [2, height / 2, 3, patches, width] uint8.

    Returns:
        [patches, 3, height, width] uint8, a view of new memory.

    Raises:
        ValueError: The array is no result of `forward`.
    """
    if not _is_stored(stored):
        raise ValueError(
            f"{ROW_PAIRS} makes uint8 [2, height / 2, 3, patches, width], got {stored.dtype.name} {stored.shape}"
        )
    _, pairs, channels, patches, width = stored.shape
    planes = pooled_empty((2 * pairs, channels, patches, width))
    rows = planes.reshape(2 * pairs, -1)
    high, low = stored.reshape(2, pairs, -1).view(_WORD)
    step = _BLOCK_WORDS["inverse"]
    for start in range(0, high.shape[1], step):
        _add_up(high, low, rows, slice(start, min(start + step, high.shape[1])))
    # The centres that were added up with the differences: those of green and of green minus red are the same.
    np.subtract(planes[:, 1], planes[:, 0], out=planes[:, 0])
    np.subtract(planes[:, 1], planes[:, 2], out=planes[:, 2])
    planes[:, 1] -= _centres(2 * pairs)
    return planes.transpose(2, 1, 0, 3)


def _centred(planes: NDArray[np.uint8], differences: NDArray[np.uint8]) -> None:
    """[height, 3, columns] of pixels to that of centred differences, overwritten."""
    green = np.add(planes[:, 1], _centres(len(planes))[..., 0], out=differences[:, 1])
    np.subtract(green, planes[:, 0], out=differences[:, 0])
    np.subtract(green, planes[:, 2], out=differences[:, 2])
    for row in range(len(differences) - 1, 0, -1):
        differences[row] -= differences[row - 1]


def _cut(differences: NDArray[np.uint8], halves: NDArray[np.uint8]) -> None:
    """[height, 3, columns] to nibbles, [2, height / 2, 3, columns], overwritten; what is cut is not left as it was."""
    upper, lower = differences[0::2].view(_WORD), differences[1::2].view(_WORD)
    high, low = halves[0].view(_WORD), halves[1].view(_WORD)
    np.bitwise_and(lower, _LOW, out=low)
    low <<= _NIBBLE
    lower >>= _NIBBLE
    lower &= _LOW
    np.bitwise_and(upper, _HIGH, out=high)
    high |= lower
    upper &= _LOW
    low |= upper


def _add_up(high: NDArray[np.uint64], low: NDArray[np.uint64], rows: NDArray[np.uint8], place: slice) -> None:
    """Join the nibbles of some columns and add each row to the one below it.

    Args:
        high: [pairs, words] of high nibbles.
        low: [pairs, words] of low nibbles.
        rows: [2 * pairs, bytes], overwritten there.
        place: Which words.
    """
    spare = np.empty(place.stop - place.start, dtype=_WORD)
    own = rows[:, place.start * _WORD.itemsize : place.stop * _WORD.itemsize]
    for pair, (highs, lows) in enumerate(zip(high[:, place], low[:, place], strict=True)):
        upper, lower = own[2 * pair].view(_WORD), own[2 * pair + 1].view(_WORD)
        np.bitwise_and(highs, _HIGH, out=upper)
        np.bitwise_and(lows, _LOW, out=spare)
        upper |= spare
        np.bitwise_and(highs, _LOW, out=lower)
        lower <<= _NIBBLE
        np.right_shift(lows, _NIBBLE, out=spare)
        spare &= _LOW
        lower |= spare
        if pair:
            own[2 * pair] += own[2 * pair - 1]
        own[2 * pair + 1] += own[2 * pair]


def _centres(height: int) -> NDArray[np.uint8]:
    """What differences, each with its centre, add up to beside the pixels: [height, 1, 1], modulo 256."""
    return (_CENTRE * np.arange(1, height + 1)).astype(np.uint8).reshape(-1, 1, 1)


def _is_stored(array: NDArray[Any]) -> bool:
    if array.dtype != np.uint8 or array.ndim != 5 or array.shape[0] != 2 or array.shape[2] != 3 or not array.size:
        return False
    return bool(array.shape[3] * array.shape[4] % _WORD.itemsize == 0)
