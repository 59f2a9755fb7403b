"""Clips of different sizes laid together from their patches."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["Clips", "clips_of"]

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
    channels, side = patches.shape[1], patches.shape[2]
    clips = []
    for (frames, rows, columns), own in zip(grids.tolist(), split(patches, grids), strict=True):
        whole = own.view(frames, rows, columns, channels, side, side).permute(0, 3, 1, 4, 2, 5)
        clips.append(whole.reshape(frames, channels, rows * side, columns * side))
    return clips[0] if len(clips) == 1 else clips


def split(patches: Tensor, grids: Tensor) -> tuple[Tensor, ...]:
    """The patches of each clip."""
    return torch.split(patches, grids.prod(dim=1).tolist())
