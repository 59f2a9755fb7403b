"""The .npy container, version 1.0, as far as a pack needs it: C-ordered plain numbers, a fixed header, no pickle.

The header is written here and not by NumPy, whose padding has changed between releases: same inputs, same bytes.
Source: numpy.lib.format's documentation.
"""

from __future__ import annotations

import math
import re

import numpy as np

__all__ = ["header_bytes", "parse_header"]

_MAGIC = b"\x93NUMPY\x01\x00"
_ALIGNMENT = 64
_PLAIN = ("|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8")
"""What a member may hold."""

_HEADER = re.compile(rb"\{'descr': '([^']{2,8})', 'fortran_order': False, 'shape': (\([0-9, ]*\)), \} *\n")


def header_bytes(dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> bytes:
    """The header of a C-ordered array; its length is a multiple of 64.

    Raises:
        ValueError: The dtype is no plain little-endian number.
    """
    text = f"{{'descr': {_checked(dtype.str)!r}, 'fortran_order': False, 'shape': {tuple(int(n) for n in shape)!r}, }}".encode()
    used = len(_MAGIC) + 2 + len(text) + 1
    text += b" " * (-used % _ALIGNMENT) + b"\n"
    return _MAGIC + len(text).to_bytes(2, "little") + text


def parse_header(data: memoryview) -> tuple[np.dtype[np.generic], tuple[int, ...], int]:
    """Read a header.

    Args:
        data: The whole .npy file.

    Returns:
        dtype, shape and the offset of the first element.

    Raises:
        ValueError: It is no .npy of version 1.0 with plain little-endian C-ordered numbers, or its size is not what the
            header says.
    """
    if bytes(data[:8]) != _MAGIC:
        raise ValueError(f"no .npy of version 1.0: it begins with {bytes(data[:8])!r}")
    offset = 10 + int.from_bytes(data[8:10], "little")
    text = bytes(data[10:offset])
    match = _HEADER.fullmatch(text)
    if match is None:
        raise ValueError(f".npy header not understood: {text[:80]!r}")
    dtype = np.dtype(_checked(match[1].decode("latin-1")))
    shape = tuple(int(n) for n in re.findall(rb"\d+", match[2]))
    expected = offset + dtype.itemsize * math.prod(shape)
    if len(data) != expected:
        raise ValueError(f".npy of {len(data)} bytes, its header makes {expected}")
    return dtype, shape, offset


def _checked(descr: str) -> str:
    if descr not in _PLAIN:
        raise ValueError(f"a pack holds plain little-endian numbers, got dtype {descr!r}")
    return descr
