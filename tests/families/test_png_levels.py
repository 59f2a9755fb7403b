"""PNGs of the common kind against Pillow: the same levels under every filter, and nothing that Pillow would not take."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from tests.sources.pictures import chunk
from vlmprep.families.media.png import SIGNATURE, decode_png
from vlmprep.families.media.png_levels import plain_levels

HEADER = (8, 2, 0, 0, 0)


def png(lines: bytes, width: int, height: int, kind: tuple[int, ...] = HEADER, *, packed: bytes | None = None) -> bytes:
    """A PNG of filtered lines, in two IDAT chunks."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes(kind)
    content = zlib.compress(lines) if packed is None else packed
    half = len(content) // 2
    pieces = (
        chunk(b"IHDR", header),
        chunk(b"IDAT", content[:half]),
        chunk(b"IDAT", content[half:]),
        chunk(b"IEND", b""),
    )
    return SIGNATURE + b"".join(pieces)


def by_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image.convert("RGB"))


def filtered_images() -> Iterator[tuple[bytes, int, int]]:
    """Any bytes are some image, under any filters."""
    rng = np.random.default_rng(0)
    for width, height in ((1, 1), (1, 7), (2, 3), (17, 5), (64, 40), (301, 23)):
        for filters in ([0], [1], [2], [3], [4], [0, 1, 2, 3, 4]):
            lines = rng.integers(0, 256, (height, 1 + 3 * width), dtype=np.uint8)
            lines[:, 0] = np.resize(filters, height)
            yield lines.tobytes(), width, height


def test_levels_are_pillows_under_every_filter() -> None:
    compared = 0
    for lines, width, height in filtered_images():
        data = png(lines, width, height)
        found = plain_levels(data)
        assert found is not None
        assert np.array_equal(found, by_pillow(data))
        compared += 1
    assert compared == 36


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"])
@pytest.mark.parametrize("level", [0, 9])
def test_every_kind_of_png_is_what_pillow_makes_of_it(mode: str, level: int) -> None:
    levels = np.random.default_rng(1).integers(0, 256, (33, 47, 3), dtype=np.uint8)
    file = io.BytesIO()
    image = Image.fromarray(levels) if mode != "I;16" else Image.fromarray(levels[..., 0].astype(np.uint16) * 257)
    (image if mode == "I;16" else image.convert(mode)).save(file, "PNG", compress_level=level)
    found = plain_levels(file.getvalue())
    assert (found is None) is (mode != "RGB")
    if found is not None:
        assert np.array_equal(found, by_pillow(file.getvalue()))


SOUND = bytes(5 * (1 + 3 * 4))


@pytest.mark.parametrize(
    "data",
    [
        png(SOUND[:-1], 4, 5),
        png(SOUND + b"\0", 4, 5),
        png(b"\x05" + SOUND[1:], 4, 5),
        png(SOUND, 4, 5, packed=zlib.compress(SOUND)[:-6]),
        png(SOUND, 4, 5, packed=b"no zlib"),
        png(SOUND, 4, 5, kind=(8, 2, 0, 0, 1)),
        png(SOUND, 4, 5)[:-12],
        png(b"", 0, 5),
        SIGNATURE + chunk(b"IHDR", bytes([0, 0, 0, 4, 0, 0, 0, 5, *HEADER])),
    ],
    ids=["short", "long", "filter 5", "cut", "no zlib", "interlaced", "no end", "no width", "nothing"],
)
def test_what_does_not_come_out_right_is_left_to_pillow(data: bytes) -> None:
    assert plain_levels(data) is None


def test_a_bomb_takes_no_more_memory_than_its_header_says() -> None:
    assert plain_levels(png(bytes(50_000_000), 4, 5)) is None


def test_a_damaged_png_raises() -> None:
    data = bytearray(png(SOUND, 4, 5))
    data[45] ^= 1
    with pytest.raises((SyntaxError, OSError)):
        decode_png(bytes(data), lambda _: None)
