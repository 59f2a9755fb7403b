"""What the encoders of Qwen models have to do for a grid of patches and for a sound."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vlmprep.schema.media import EncoderWork

__all__ = ["picture_work", "sound_work"]


def picture_work(grid: NDArray[np.int64], window: int | None = None) -> EncoderWork:
    """Work for one image or clip: every step of it attends to itself.

    Args:
        grid: [1, 3] int64: steps, rows and columns of patches.
        window: Rows and columns of patches of a window, where some layers see windows; those at the right and at the bottom
            are what is left. A step of 6 x 10 patches has, with windows of 4 x 4, windows of 4 x 4, 4 x 4, 4 x 2,
            2 x 4, 2 x 4 and 2 x 2 patches.
    """
    steps, rows, columns = (int(length) for length in grid[0])
    return EncoderWork(
        num_encoder_patches=steps * rows * columns,
        num_patch_pairs=steps * (rows * columns) ** 2,
        num_window_pairs=steps * _squares(rows, window) * _squares(columns, window) if window is not None else 0,
    )


def sound_work(num_frames: int, num_tokens: int, *, chunk: int, window: int) -> EncoderWork:
    """Work for one sound of Qwen3-Omni.

    Args:
        num_frames: Frames of features.
        num_tokens: Placeholders, one for each token of the encoder.
        chunk: Frames that its convolutions see at once; the last chunk is padded.
        window: Tokens that see each other.
    """
    return EncoderWork(
        num_sound_features=-(-num_frames // chunk) * chunk,
        num_sound_frames=num_tokens,
        num_sound_pairs=_squares(num_tokens, window),
    )


def _squares(length: int, piece: int) -> int:
    """Sum of the squares of the pieces of a length; the last is what is left."""
    whole, rest = divmod(length, piece)
    return whole * piece**2 + rest**2
