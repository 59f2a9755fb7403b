"""Small files that claim to be huge, that unpack to much, or that take long."""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Callable

from tests.fuzz.seeds import seed_bytes
from tests.sources.pictures import chunk
from vlmprep.schema.conversation import MediaKind

__all__ = ["BOMBS"]

MOST_LINES = 65_535
"""Of a JPEG or GIF."""
UNPACKED = 100 << 20
"""Bytes that a bomb of zeros unpacks to."""
NUM_SCANS = 20_000
"""Of a progressive JPEG, at ten bytes each."""


def png_of(height: int, width: int, packed: bytes, *before: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG with any header over any pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"".join([b"\x89PNG\r\n\x1a\n", header, *before, chunk(b"IDAT", packed), chunk(b"IEND", b"")])


@functools.cache
def zeros() -> bytes:
    """Deflated zeros."""
    packer = zlib.compressobj(1)
    return b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(UNPACKED >> 20)), packer.flush()])


def jpeg_of(height: int, width: int, *, scans: int = 0) -> bytes:
    """A JPEG with another size in its header, and more scans than anybody writes."""
    data = bytearray(seed_bytes("image", "jpeg progressive" if scans else "jpeg"))
    at = data.index(b"\xff\xc2" if scans else b"\xff\xc0")
    struct.pack_into(">HH", data, at + 5, height, width)
    refining = b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x00\x00\x00"  # luma again, all its coefficients, no bits
    return bytes(data[:-2]) + refining * scans + b"\xff\xd9"


def gif_of(height: int, width: int) -> bytes:
    """A GIF whose screen and first frame have another size."""
    data = bytearray(seed_bytes("image", "gif"))
    struct.pack_into("<HH", data, 6, width, height)
    frame = data.index(b",", 13 + 3 * (2 << (data[10] & 7)))
    struct.pack_into("<HH", data, frame + 5, width, height)
    return bytes(data)


def bmp_of(height: int, width: int) -> bytes:
    """A BMP with another size in its header."""
    data = bytearray(seed_bytes("image", "bmp"))
    struct.pack_into("<ii", data, 18, width, height)
    return bytes(data)


def wav_of(**claims: int) -> bytes:
    """A WAV whose header claims something else."""
    places = {
        "riff_bytes": (4, "<I"),
        "channels": (22, "<H"),
        "rate": (24, "<I"),
        "bits": (34, "<H"),
        "bytes": (40, "<I"),
    }
    data = bytearray(seed_bytes("audio", "wav"))
    for name, value in claims.items():
        at, form = places[name]
        struct.pack_into(form, data, at, value)
    return bytes(data)


def flac_of(num_samples: int) -> bytes:
    """A FLAC that claims another length."""
    data = bytearray(seed_bytes("audio", "flac"))
    bits = int.from_bytes(data[18:26], "big")
    data[18:26] = ((bits >> 36 << 36) | num_samples).to_bytes(8, "big")
    return bytes(data)


def mp4_with(box: bytes, at: int, form: str, *numbers: int) -> bytes:
    """An mp4 with other numbers in the first box of a kind, behind its name."""
    data = bytearray(seed_bytes("video", "mp4"))
    struct.pack_into(form, data, data.index(box) + 4 + at, *numbers)
    return bytes(data)


IMAGE_BOMBS: dict[str, Callable[[], bytes]] = {
    "png of 60,000 squared": lambda: png_of(60_000, 60_000, zlib.compress(bytes(1_000))),
    "png of a megapixel without pixels": lambda: png_of(1_000, 1_000, zlib.compress(b"")),
    "png that unpacks": lambda: png_of(40, 40, zeros()),
    "png with a profile that unpacks": lambda: png_of(
        40, 40, zlib.compress(bytes(5_000)), chunk(b"iCCP", b"p\0\0" + zeros())
    ),
    "png with a text that unpacks": lambda: png_of(
        40, 40, zlib.compress(bytes(5_000)), *[chunk(b"zTXt", b"k%d\0\0" % number + zeros()) for number in range(3)]
    ),
    "png of one line": lambda: png_of(1, 1 << 20, zlib.compress(bytes(1_000))),
    "png of no size": lambda: png_of(0, 0, zlib.compress(bytes(10))),
    "png of 2^31": lambda: png_of((1 << 31) - 1, (1 << 31) - 1, zlib.compress(bytes(10))),
    "jpeg of 65,535 squared": lambda: jpeg_of(MOST_LINES, MOST_LINES),
    "jpeg of a megapixel": lambda: jpeg_of(1_000, 1_000),
    "jpeg of 65,535 x 16": lambda: jpeg_of(MOST_LINES, 16),
    "jpeg without height": lambda: jpeg_of(0, 90),
    "jpeg of many scans": lambda: jpeg_of(1_000, 1_000, scans=NUM_SCANS),
    "gif of 65,535 squared": lambda: gif_of(MOST_LINES, MOST_LINES),
    "gif of a megapixel": lambda: gif_of(1_000, 1_000),
    "bmp upside down": lambda: bmp_of(-(1 << 31), 90),
    "bmp of 65,535 squared": lambda: bmp_of(MOST_LINES, MOST_LINES),
}
MOST = (1 << 32) - 1
BOMBS: dict[MediaKind, dict[str, Callable[[], bytes]]] = {
    "image": IMAGE_BOMBS,
    "video": {
        "mp4 of 2^32 samples": lambda: mp4_with(b"stsz", 4, ">2I", 1, MOST),
        "mp4 of 2^32 samples of their own sizes": lambda: mp4_with(b"stsz", 4, ">2I", 0, MOST),
        "mp4 of 2^32 times": lambda: mp4_with(b"stts", 4, ">I", MOST),
        "mp4 of 2^32 chunks": lambda: mp4_with(b"stco", 4, ">I", MOST),
        "mp4 of one long time": lambda: mp4_with(b"stts", 8, ">2I", MOST, MOST),
        "mp4 of no time scale": lambda: mp4_with(b"mdhd", 12, ">I", 0),
        "mp4 of 65,535 squared": lambda: mp4_with(b"avc1", 24, ">2H", MOST_LINES, MOST_LINES),
        "gif of 65,535 squared as a clip": lambda: gif_of(MOST_LINES, MOST_LINES),
    },
    "audio": {
        "wav of 4 GiB": lambda: wav_of(bytes=MOST),
        "wav of 65,535 channels": lambda: wav_of(channels=65_535),
        "wav of no channel": lambda: wav_of(channels=0),
        "wav of one sample a second": lambda: wav_of(rate=1),
        "wav of 2^32 samples a second": lambda: wav_of(rate=MOST),
        "wav of no rate": lambda: wav_of(rate=0),
        "wav of 64 bits": lambda: wav_of(bits=64),
        "flac of 2^36 samples": lambda: flac_of((1 << 36) - 1),
        "flac of unknown length": lambda: flac_of(0),
    },
}
"""By kind and name."""
