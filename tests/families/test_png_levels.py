"""PNGs: Pillow's levels under every filter and in every kind, and nothing that libpng would not take."""

from __future__ import annotations

import io
import types
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from tests.sources.pictures import chunk
from vlmprep.families.media.images import load_image
from vlmprep.families.media.png import check_png, decode_png
from vlmprep.families.media.png_levels import plain_levels
from vlmprep.families.media.png_lines import SIGNATURE, filtered_lines, png_header
from vlmprep.schema.conversation import Media
from vlmprep.schema.errors import RefuseSample

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


def decoded(data: bytes) -> np.ndarray:
    """By the short way; fails where that is not taken."""
    header = png_header(data)
    levels = plain_levels(filtered_lines(data, header), header)
    assert levels is not None
    return levels


def test_levels_are_pillows_under_every_filter() -> None:
    compared = 0
    for lines, width, height in filtered_images():
        data = png(lines, width, height)
        assert np.array_equal(decoded(data), by_pillow(data))
        compared += 1
    assert compared == 36


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
@pytest.mark.parametrize("level", [0, 9])
def test_every_kind_of_png_is_what_pillow_makes_of_it(mode: str, level: int) -> None:
    levels = np.random.default_rng(1).integers(0, 256, (33, 47, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels).convert(mode).save(file, "PNG", compress_level=level)
    found = decode_png(file.getvalue(), lambda _: None)
    assert np.array_equal(found.permute(1, 2, 0).numpy(), by_pillow(file.getvalue()))


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ((8, 2, 0, 0, 0), [1 + 5 * 3] * 4),
        ((8, 6, 0, 0, 0), [1 + 5 * 4] * 4),
        ((16, 4, 0, 0, 0), [1 + 5 * 4] * 4),
        ((2, 0, 0, 0, 0), [1 + 2] * 4),
        ((1, 0, 0, 0, 0), [1 + 1] * 4),
        ((8, 2, 0, 0, 1), [1 + 3, 1 + 3, 1 + 3, 1 + 9, *[1 + 6] * 2, *[1 + 15] * 2]),  # the third pass is empty
    ],
    ids=str,
)
@pytest.mark.parametrize("backend", ["torchvision", "pil"])
def test_lines_that_lack_are_refused(kind: tuple[int, ...], sizes: list[int], backend: str) -> None:
    """Pillow says nothing, and leaves them black."""
    whole, lacking = (png(bytes(sum(part)), 5, 4, kind) for part in (sizes, sizes[:-1]))
    assert filtered_lines(whole, png_header(whole)) == bytes(sum(sizes))
    assert by_pillow(lacking).shape == (4, 5, 3)
    processor = types.SimpleNamespace(backend=backend, fetch_images=None)
    with pytest.raises(RefuseSample, match=f"end early: {sum(sizes[:-1])} bytes of {sum(sizes)}"):
        load_image(processor, Media(kind="image", content=lacking))


SOUND = bytes(5 * (1 + 3 * 4))
SIZE = bytes([0, 0, 0, 4, 0, 0, 0, 5])
IDAT = chunk(b"IDAT", zlib.compress(SOUND))
END = chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (png(SOUND, 4, 5, packed=zlib.compress(SOUND)[:-2]), "end early"),
        (png(SOUND, 4, 5, packed=zlib.compress(SOUND)[:-4] + b"sums"), "do not inflate"),
        (png(SOUND, 4, 5, packed=b"no zlib"), "do not inflate"),
        (png(SOUND, 4, 5, kind=(8, 2, 0, 0, 1)), "end early"),
        (png(SOUND, 4, 5, kind=(8, 3, 0, 0, 0)), "no palette"),
        (png(SOUND, 4, 5, kind=(8, 2, 1, 0, 0)), "its header"),
        (png(SOUND, 4, 5, kind=(8, 5, 0, 0, 0)), "its header"),
        (png(SOUND, 4, 5)[:-12], "no end"),
        (SIGNATURE + chunk(b"IHDR", SIZE + bytes(HEADER)) + END, "end early|do not inflate"),
        (SIGNATURE + chunk(b"IHDR", SIZE + bytes([*HEADER, 0])) + IDAT + END, "its header"),
        (SIGNATURE + chunk(b"IHDR", SIZE + bytes(HEADER)) + chunk(b"NEWS", b"") + IDAT + END, "NEWS"),
        (png(SOUND, 4, 5).replace(END, chunk(b"tEXt", b"a\0b") + IDAT + END), "not in one place"),
        (SIGNATURE + b"\0\0", "cut off"),
    ],
)
def test_what_libpng_would_not_take_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(OSError, match=reason):
        check_png(data)


@pytest.mark.parametrize(
    "data",
    [
        png(SOUND + b"\0", 4, 5),
        png(bytes(50_000_000), 4, 5),
        png(SOUND, 4, 5) + b"behind its end",
        png(SOUND, 4, 5, packed=zlib.compress(SOUND) + b"behind the stream"),
        png(SOUND, 4, 5).replace(END, chunk(b"tEXt", b"a\0b") + END),
    ],
    ids=["long", "a bomb", "more", "a longer stream", "a text"],
)
def test_what_libpng_takes_is_taken_and_no_more_than_its_header_says(data: bytes) -> None:
    assert filtered_lines(data, png_header(data)) == SOUND


def test_an_unknown_filter_is_left_to_pillow() -> None:
    with pytest.raises(OSError, match="unrecognized data stream"):
        decode_png(png(b"\x05" + SOUND[1:], 4, 5), lambda _: None)


def test_a_damaged_png_raises() -> None:
    data = bytearray(png(SOUND, 4, 5))
    data[45] ^= 1
    with pytest.raises((SyntaxError, OSError)):
        decode_png(bytes(data), lambda _: None)
