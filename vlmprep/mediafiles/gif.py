"""A GIF whose data are broken: torchvision's loader says nothing, and leaves the rest of the picture as memory was."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["GIF_SIGNATURE", "check_gif"]

GIF_SIGNATURE = b"GIF8"


def check_gif(content: bytes, levels: NDArray[np.uint8]) -> None:
    """Hold a GIF's levels against Pillow's, which notices broken data.

    Args:
        content: The file.
        levels: [3, H, W] as torchvision decoded it.

    Raises:
        OSError: Its data are broken or too short, or Pillow finds other levels in them.
    """
    with Image.open(io.BytesIO(content), formats=("GIF",)) as image:
        image.load()
        if "transparency" in image.info:  # there torchvision shows the background
            return
        wanted = np.asarray(image.convert("RGB"))
    if not np.array_equal(levels.transpose(1, 2, 0), wanted):
        raise OSError("its data are broken, and decoders differ about it")
