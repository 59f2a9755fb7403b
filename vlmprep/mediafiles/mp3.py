"""What the first frame of an MP3 says of the whole: without such a note, libsndfile guesses how long a sound is.

[ID3v2 tag] frame 1: header, side information, "Xing" or "Info", flags, [frames], [bytes], ...   (or "VBRI")

Encoders write it; a stream that was recorded or cut has none.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import IO

__all__ = ["LengthNote", "length_note"]

ID3_HEADER_BYTES = 10
SEARCHED_BYTES = 8_192
"""Behind a tag there may be padding."""
NOTE = re.compile(rb"\xff[\xe0-\xff].{7,40}?(Xing|Info|VBRI)", re.DOTALL)
"""Header and side information are 11 to 40 bytes."""
HAS_FRAMES, HAS_BYTES = 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthNote:
    """What a first frame says of all."""

    end: int | None
    """Where the sound should end in the file, in bytes; None where it does not say."""


def length_note(file: IO[bytes]) -> LengthNote | None:
    """Read the note in an MP3's first frame; None where there is none.

    Args:
        file: The encoded sound; its position is put back to the start.
    """
    start = tag_bytes(file)
    file.seek(start)
    head = file.read(SEARCHED_BYTES)
    file.seek(0)
    found = NOTE.search(head)
    if found is None:
        return None
    if found[1] == b"VBRI":
        return LengthNote(end=None)
    flags, *numbers = struct.unpack(">3I", head[found.end() : found.end() + 12].ljust(12, b"\0"))
    if not flags & HAS_BYTES:
        return LengthNote(end=None)
    num_bytes = numbers[1] if flags & HAS_FRAMES else numbers[0]
    return LengthNote(end=start + found.start() + num_bytes)


def tag_bytes(file: IO[bytes]) -> int:
    """Size of the ID3v2 tag at the start: 28 bits in four bytes of seven."""
    file.seek(0)
    head = file.read(ID3_HEADER_BYTES)
    if not head.startswith(b"ID3") or len(head) < ID3_HEADER_BYTES:
        return 0
    size = 0
    for byte in head[6:10]:
        size = size << 7 | (byte & 0x7F)
    return ID3_HEADER_BYTES + size
