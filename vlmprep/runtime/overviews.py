"""The view of a whole picture that stands in front of its tiles, made of them again.

Some processors cut a picture into tiles and put a small view of all of it in front, resized behind the arithmetic: floats that
no 8-bit level stands for. A pack holds the tiles alone; this resizes them again, as torchvision does.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import interpolate

__all__ = ["with_overviews"]


def with_overviews(tiles: Tensor, sizes: Tensor) -> Tensor:
    """Put each picture's overview in front of its tiles.

    Args:
        tiles: [N, channels, height, width] float32, those of several pictures one after the other, each row by row.
        sizes: [media, 2], height and width of each picture in pixels, multiples of a tile's.

    Returns:
        [N + media, channels, height, width] float32; on a CPU bit-equal to torchvision's resize (bicubic, no antialias).
    """
    side = tuple(tiles.shape[2:])
    pieces: list[Tensor] = []
    for rows, columns, own in _pictures(tiles, sizes):
        whole = own.view(rows, columns, *own.shape[1:]).permute(2, 0, 3, 1, 4)
        whole = whole.reshape(1, own.shape[1], rows * side[0], columns * side[1])
        if len(own) > 1:
            whole = interpolate(whole, size=side, mode="bicubic", align_corners=False, antialias=False)
        pieces += [whole, own]
    return torch.cat(pieces) if pieces else tiles


def _pictures(tiles: Tensor, sizes: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """Rows, columns and tiles of each picture."""
    height, width = tiles.shape[2:]
    first = 0
    for tall, wide in sizes.tolist():
        rows, columns = tall // height, wide // width
        yield rows, columns, tiles[first : first + rows * columns]
        first += rows * columns
