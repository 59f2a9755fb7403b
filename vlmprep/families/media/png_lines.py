"""The filtered lines in a PNG that holds together: what libpng would find to decode, or an error.

    signature | IHDR | other chunks | PLTE | IDAT | IDAT | ... | other chunks | IEND     chunk: length, name, data, checksum

Pillow shows black where a PNG's pixels end early and where it lacks its palette; libpng, and so torchvision, fails.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from isal import igzip_lib, isal_zlib  # inflates in half of zlib's time, for the same bytes

__all__ = ["SIGNATURE", "PngHeader", "filtered_lines", "png_header"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER = struct.Struct(">I4sIIBBBBB")
"""Length and name of a PNG's first chunk, then what PngHeader says."""
HEADER_BYTES = 13
CHUNK_FRAME_BYTES = 12
"""Of a chunk beside its data: length, name and checksum."""
CRITICAL = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
"""Chunks that decoders must know; the names of others begin with a small letter."""
PALETTE = 3
LEVELS_A_PIXEL = {0: 1, 2: 3, PALETTE: 1, 4: 2, 6: 4}
"""By colour type."""
WHOLE = ((0, 0, 1, 1),)
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Of interlaced PNGs: first column and row, then steps to the next ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PngHeader:
    """What a PNG says of its pixels."""

    width: int
    height: int
    depth: int
    """Bits of a level."""
    colour: int
    """Its type, 0 to 6."""
    is_interlaced: bool

    @property
    def num_bytes(self) -> int:
        """Of all lines, each behind the number of its filter."""
        bits = self.depth * LEVELS_A_PIXEL[self.colour]
        sizes = (
            (-(-(self.width - left) // across), -(-(self.height - top) // down))
            for left, top, across, down in (PASSES if self.is_interlaced else WHOLE)
        )
        return sum(height * (1 + -(-width * bits // 8)) for width, height in sizes if width > 0 < height)


def png_header(data: bytes) -> PngHeader:
    """Read a PNG's header.

    Raises:
        OSError: It is none that libpng reads.
    """
    if len(data) < len(SIGNATURE) + HEADER.size:
        raise OSError("its header is cut off")
    size, kind, width, height, depth, colour, *methods, interlacing = HEADER.unpack_from(data, len(SIGNATURE))
    if (size, kind, methods) != (HEADER_BYTES, b"IHDR", [0, 0]) or colour not in LEVELS_A_PIXEL or interlacing > 1:
        raise OSError("its header is no PNG's")
    return PngHeader(width=width, height=height, depth=depth, colour=colour, is_interlaced=interlacing == 1)


def filtered_lines(data: bytes, header: PngHeader) -> bytes:
    """Inflate a PNG's pixels, and never more of them in memory than its header says.

    Args:
        data: The encoded image.
        header: Of it.

    Returns:
        [header.num_bytes]; of an interlaced one pass by pass.

    Raises:
        OSError: They end early or are damaged, or its chunks are none that libpng takes.
    """
    packed, num_bytes = _packed(data, header), header.num_bytes
    try:
        stream = isal_zlib.decompressobj()
        found = stream.decompress(packed, num_bytes + 1)
    except igzip_lib.IsalError as error:  # type: ignore[misc]  # its stubs do not say that it is an exception
        raise OSError(f"its pixels do not inflate: {error}") from error
    if len(found) < num_bytes or (len(found) == num_bytes and not stream.eof):
        raise OSError(f"its pixels end early: {len(found)} bytes of {num_bytes}")
    return bytes(found[:num_bytes])


def _packed(data: bytes, header: PngHeader) -> bytes:
    """The IDAT chunks joined."""
    parts: list[memoryview] = []
    has_palette, last = False, b""
    for kind, content in _chunks(data):
        if kind == b"IDAT":
            if parts and last != b"IDAT":
                raise OSError("its pixels are not in one place")
            parts.append(content)
        elif kind not in CRITICAL and not kind[0] & 0x20:
            raise OSError(f"it has a chunk {kind!r}, which no decoder knows")
        has_palette |= kind == b"PLTE" and not parts
        last = kind
    if header.colour == PALETTE and not has_palette:
        raise OSError("it has no palette")
    if last != b"IEND":
        raise OSError("it has no end")
    return b"".join(parts)


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Name and data of every chunk to the first IEND, as far as they are there."""
    at, view = len(SIGNATURE), memoryview(data)
    while at + CHUNK_FRAME_BYTES <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        yield kind, view[at + 8 : at + 8 + size]
        if kind == b"IEND":
            return
        at += CHUNK_FRAME_BYTES + size
