"""What the index of an mp4 promises, read before FFmpeg is let near it.

FFmpeg spreads an index out in memory as it opens a file: 24 bytes and more for every sample. Samples of one size need no
table, so a few bytes can promise four billion of them.

    moov > trak > mdia > minf > stbl > stsz: version and flags, size of every sample or 0, number of samples, [sizes]
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import IO

__all__ = ["promised_bytes"]

FIRST_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp"})
PATH = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
MOST_BOXES = 10_000
"""Of one parent."""


def promised_bytes(file: IO[bytes]) -> int:
    """Bytes of the largest track whose samples are all of one size; 0 where there is none, or no mp4.

    Args:
        file: Any file; its position is put back to the start.
    """
    file.seek(0)
    found = 0
    if file.read(8)[4:] in FIRST_BOXES:
        for start, end in boxes(file, 0, file.seek(0, 2), (*PATH, b"stsz")):
            file.seek(start)
            sample_bytes, num_samples = struct.unpack(">4x2I", file.read(12).ljust(12, b"\0"))
            found = max(found, sample_bytes * num_samples if end - start >= 12 else 0)
    file.seek(0)
    return found


def boxes(file: IO[bytes], start: int, end: int, path: tuple[bytes, ...]) -> Iterator[tuple[int, int]]:
    """Where the contents of the boxes at a path begin and end."""
    for _ in range(MOST_BOXES):
        file.seek(start)
        head = file.read(16)
        if len(head) < 8 or start + 8 > end:
            return
        size, kind = struct.unpack_from(">I4s", head)
        inside = start + 8
        if size == 1 and len(head) == 16:
            size, inside = int.from_bytes(head[8:], "big"), start + 16
        after = end if size == 0 else start + size
        if after < inside:
            return
        if kind == path[0]:
            if len(path) == 1:
                yield inside, min(after, end)
            else:
                yield from boxes(file, inside, min(after, end), path[1:])
        start = after
