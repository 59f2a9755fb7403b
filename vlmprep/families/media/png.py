"""A PNG's levels as torchvision decodes them, without torchvision's decoder.

That decoder leaps out of libpng's error handler over live C++ objects: one wrong byte among a PNG's pixels ends the process
instead of raising (torchvision 0.29). PNG is lossless, so others find the same levels: png_lines.py makes sure that all of them
are there, png_levels.py decodes the common kind, Pillow the rest.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

from vlmprep.families.media.png_levels import plain_levels
from vlmprep.families.media.png_lines import SIGNATURE, filtered_lines, png_header

__all__ = ["check_png", "decode_png", "is_eight_bit_png"]

BIT_DEPTH_AT = 24
"""In the file: behind the signature and the header's length, name, width and height."""


def is_eight_bit_png(data: bytes) -> bool:
    """Whether an encoded image is a PNG of at most 8 bits a level; torchvision makes 16-bit tensors of the others."""
    return data.startswith(SIGNATURE) and data[BIT_DEPTH_AT : BIT_DEPTH_AT + 1] != b"\x10"


def check_png(data: bytes) -> None:
    """Make sure that a PNG's pixels are all there.

    Args:
        data: The encoded image.

    Raises:
        OSError: They are not, or libpng would not take them.
    """
    filtered_lines(data, png_header(data))


def decode_png(data: bytes, torchvision_decode: Callable[[bytes], Any]) -> torch.Tensor:
    """Decode a PNG.

    Args:
        data: The encoded image.
        torchvision_decode: Turns an image upright as its Exif block says; it is given one that Pillow wrote.

    Returns:
        [3, height, width] uint8, a view of memory ordered [height, width, 3] as torchvision's own.

    Raises:
        OSError: Pixels are missing, or libpng would not take them.
        Exception: What Pillow raises where the file is damaged otherwise.
    """
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        image.verify()  # checksums, which decoding leaves out
    header = png_header(data)
    levels = plain_levels(filtered_lines(data, header), header)
    if levels is None:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            levels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    if exif := early_exif(data):
        sound = io.BytesIO()
        Image.fromarray(levels).save(sound, "PNG", exif=exif, compress_level=0)
        upright: torch.Tensor = torchvision_decode(sound.getvalue())
        return upright
    return torch.from_numpy(levels).permute(2, 0, 1)


def early_exif(data: bytes) -> bytes:
    """The eXIf chunk before a PNG's pixels, which is the one that libpng has read when it decodes them."""
    at = len(SIGNATURE)
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"eXIf":
            return data[at + 8 : at + 8 + size]
        if kind == b"IDAT":
            break
        at += 12 + size
    return b""
