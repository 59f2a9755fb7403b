"""Clips and pictures of different sizes laid together from their patches."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["Clips", "canvas_of", "clips_of", "media_of"]

Clips: TypeAlias = "Tensor | list[Tensor]"
"""One clip, or several, which need not be of one size."""


def clips_of(patches: Tensor, grids: Tensor) -> Clips:
    """Lay the patches of clips together.

    Args:
        patches: [N, channels, side, side], those of several clips one after the other, frame by frame and row by row.
        grids: [media, 3], frames of each clip and rows and columns of patches of each frame.

    Returns:
        [frames, channels, height, width], or a list of them where there are several clips.
    """
    clips = _laid_together(patches, grids)
    return clips[0] if len(clips) == 1 else clips


def canvas_of(patches: Tensor, grids: Tensor) -> Tensor:
    """Lay the patches of pictures together, on a canvas of the tallest and the widest.

    Args:
        patches: [N, channels, side, side], those of several pictures one after the other, row by row.
        grids: [media, 2], rows and columns of patches of each.

    Returns:
        [media, channels, height, width]; zeros below and right of the smaller pictures.
    """
    pictures = _laid_together(patches, torch.cat([torch.ones_like(grids[:, :1]), grids], dim=1))
    if len({picture.shape for picture in pictures}) == 1:
        return torch.cat(pictures)
    tall, wide = (max(picture.shape[axis] for picture in pictures) for axis in (2, 3))
    canvas = patches.new_zeros((len(pictures), patches.shape[1], tall, wide))
    for at, picture in enumerate(pictures):
        canvas[at, :, : picture.shape[2], : picture.shape[3]] = picture[0]
    return canvas


def media_of(items: Tensor, sizes: list[int]) -> Clips:
    """Media of so many items each, which nothing fills up.

    Args:
        items: [N, ...], those of several media one after the other.
        sizes: How many each medium has.

    Returns:
        [media, items, ...] where all have as many, else a list of [1, items, ...].
    """
    media = [own.unsqueeze(0) for own in torch.split(items, sizes)]
    return items.view(len(sizes), -1, *items.shape[1:]) if len(set(sizes)) == 1 else media


def _laid_together(patches: Tensor, grids: Tensor) -> list[Tensor]:
    """[frames, channels, height, width] of each medium."""
    channels, side = patches.shape[1], patches.shape[2]
    media = []
    for (frames, rows, columns), own in zip(
        grids.tolist(), torch.split(patches, grids.prod(dim=1).tolist()), strict=True
    ):
        whole = own.view(frames, rows, columns, channels, side, side).permute(0, 3, 1, 4, 2, 5)
        media.append(whole.reshape(frames, channels, rows * side, columns * side))
    return media
