"""How large an image is when it stands upright, from its header alone.

The loaders of transformers differ in what they read and in which tags turn an image, so each is followed to the letter:

    torchvision  JPEG, PNG, GIF and WebP; the first Exif block of a JPEG, the eXIf chunk before a PNG's pixels; no XMP
    pil          whatever Pillow reads; Exif, a PNG's text chunks (those behind the pixels too), else XMP

What a loader would read, but the processor would then get wrong without a word, is refused.
"""

from __future__ import annotations

import functools
import logging
import re
import struct
import warnings
from collections.abc import Iterator
from typing import IO, Any, Literal, cast

from PIL import Image, ImageFile, PngImagePlugin, UnidentifiedImageError

from vlmprep.mediafiles.heif import teach_pillow_heif
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.media import Loader
from vlmprep.sources.unread import HEAD_BYTES, unread_image

__all__ = ["upright_size"]

ORIENTATION = 0x0112
SIDEWAYS = frozenset({5, 6, 7, 8})
"""Orientations that swap height and width."""
TIFF_WIDTH, TIFF_HEIGHT = 0x0100, 0x0101

TORCHVISION_FORMATS = frozenset({"JPEG", "MPO", "PNG", "GIF", "WEBP"})
"""What torchvision reads without extra packages; an MPO is a JPEG with more pictures behind the first."""
NOT_OPENED = frozenset({"EPS", "ICO"})
"""Formats that are unsafe to look at: a program that Ghostscript would run, and icons, which Pillow decodes as it opens them."""
TEXT_CHUNKS = frozenset({b"eXIf", b"tEXt", b"zTXt", b"iTXt"})
"""Chunks of a PNG in which Pillow looks for an orientation."""
CHUNK_NAME = re.compile(rb"\w{4}")
NO_NUMBER = 0xFFFF
"""What torchvision's Exif reader finds where there are no bytes."""

# Its plugins complain of broken headers on stderr; the reason of the refusal says enough.
logging.getLogger("PIL").addHandler(logging.NullHandler())


def upright_size(file: IO[bytes], name: str, loader: Loader, max_pixels: int) -> tuple[int, int]:
    """Read an image's height and width after its orientation tag.

    Args:
        file: The encoded image, seekable; a few kilobytes of it are read.
        name: What a person calls it.
        loader: Which of the processors' loaders will decode it.
        max_pixels: Larger images are refused.

    Raises:
        RefuseSample: No image, too large, or of a kind that the loader or the processor does not read right.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _upright_size(file, name, loader, max_pixels)
    except RefuseSample:
        raise
    except UnidentifiedImageError:
        raise unread_image(_bytes_at(file, 0, HEAD_BYTES), name, loader) from None
    except Image.DecompressionBombError as error:
        raise RefuseSample("image-too-large", f"{name}: {error}") from None
    except Exception as error:  # Pillow's plugins raise whatever broken bytes lead them to
        raise RefuseSample("not-an-image", f"{name} has a broken header: {error}") from error


def _upright_size(file: IO[bytes], name: str, loader: Loader, max_pixels: int) -> tuple[int, int]:
    image = Image.open(file, formats=_formats(_bytes_at(file, 0, 4)))
    width, height = image.size
    if width * height > max_pixels:
        raise RefuseSample(
            "image-too-large", f"{name} claims {width} x {height} pixels, above --max-image-pixels {max_pixels}"
        )
    if loader == "torchvision":
        _check_torchvision_reads(image, file, name)
        orientation = _torchvision_orientation(image, file)
    else:
        _check_pil_reads(image, name)
        orientation = _pil_orientation(image, file)
    if image.format == "TIFF":  # the one format whose size may already be upright
        tags = cast(Any, image).tag_v2
        width, height = tags[TIFF_WIDTH], tags[TIFF_HEIGHT]
    return (width, height) if orientation in SIDEWAYS else (height, width)


@functools.lru_cache(maxsize=1_024)
def _formats(head: bytes) -> tuple[str, ...]:
    """The formats that a file may have, by its first four bytes: Pillow would try them one by one."""
    if head.startswith(b"\xff\xd8\xff"):
        return ("JPEG",)
    if head == b"\x89PNG":
        return ("PNG",)
    Image.init()
    teach_pillow_heif()
    return tuple(name for name in Image.ID if name not in NOT_OPENED)


def _check_torchvision_reads(image: ImageFile.ImageFile, file: IO[bytes], name: str) -> None:
    if image.format not in TORCHVISION_FORMATS:
        raise RefuseSample(
            "unread-format",
            f"{name} is {image.format}, which the processor's torchvision loader does not read "
            "(it reads JPEG, PNG, GIF and WebP); convert it, or use --image-backend pil",
        )
    if _is_clip(image, file):
        raise RefuseSample(
            "animated-image",
            f"{name} is an animated {image.format}, which the torchvision loader does not take for an image",
        )
    if image.format == "GIF" and image.tile and image.tile[0][1] != (0, 0, *image.size):
        raise RefuseSample(
            "uncovered-image",
            f"{name} is a GIF whose picture does not cover it; the torchvision loader fills the rest with whatever lies in "
            "memory; convert it, or use --image-backend pil",
        )
    if image.format == "PNG" and _bytes_at(file, 24, 1) == b"\x10":  # IHDR's bit depth
        raise RefuseSample(
            "high-bit-depth",
            f"{name} is a 16-bit PNG; the torchvision loader hands on 16-bit values that the processor rescales as if "
            "they were 8-bit; convert it to 8 bits",
        )


def _is_clip(image: ImageFile.ImageFile, file: IO[bytes]) -> bool:
    if image.format == "WEBP":  # an extended header's animation flag, which may stand over a single frame
        head = _bytes_at(file, 12, 9)
        return head.startswith(b"VP8X") and bool(head[8] & 0x02)
    return image.format == "GIF" and bool(getattr(image, "is_animated", False))


def _check_pil_reads(image: ImageFile.ImageFile, name: str) -> None:
    if image.mode.startswith(("I", "F")):
        raise RefuseSample(
            "high-bit-depth",
            f"{name} has more than 8 bits a level (Pillow's mode {image.mode}); the PIL loader cuts all levels above 255 off; "
            "convert it to 8 bits",
        )


def _torchvision_orientation(image: ImageFile.ImageFile, file: IO[bytes]) -> int:
    if image.format in ("JPEG", "MPO"):
        segments: list[tuple[str, bytes]] = cast(Any, image).applist
        return _exif_orientation(next((data[6:] for segment, data in segments if segment == "APP1"), b""))
    if image.format == "PNG" and "exif" in image.info:
        return _exif_orientation(_early_png_exif(file))
    return 1


def _exif_orientation(block: bytes) -> int:
    """The orientation that torchvision finds in a TIFF structure: the first entry with that tag, whatever its type."""
    order: Literal["little", "big"] = "little" if block.startswith(b"II") else "big"

    def number(at: int, size: int = 2) -> int:
        return int.from_bytes(block[at : at + size], order) if at + size <= len(block) else NO_NUMBER

    if number(2) != 42:
        return 1
    directory = number(4, 4)
    for entry in range(directory + 2, directory + 2 + 12 * number(directory), 12):
        if number(entry) == ORIENTATION:
            return number(entry + 8)
        if number(entry) == NO_NUMBER:
            break
    return 1


def _early_png_exif(file: IO[bytes]) -> bytes:
    for kind, at, size in _png_chunks(file):
        if kind == b"eXIf":
            return _bytes_at(file, at, size)
        if kind == b"IDAT":
            break
    return b""


def _pil_orientation(image: ImageFile.ImageFile, file: IO[bytes]) -> Any:
    """What PIL.ImageOps.exif_transpose goes by."""
    if isinstance(image, PngImagePlugin.PngImageFile):
        _read_late_text(image, file)
        exif = Image.Image.getexif(image)  # its own getexif would decode the pixels to come behind them
    else:
        exif = image.getexif()
    return exif.get(ORIENTATION, 1)


def _read_late_text(image: PngImagePlugin.PngImageFile, file: IO[bytes]) -> None:
    """Add to a PNG's info what Pillow reads behind the pixels, after decoding them."""
    stream = PngImagePlugin.PngStream(file)
    stream.im_info = image.info
    behind_pixels = False
    for kind, at, size in _png_chunks(file):
        if kind == b"fcTL" and behind_pixels and image.is_animated:
            break  # the next frame
        if kind in TEXT_CHUNKS and behind_pixels:
            file.seek(at)
            try:
                stream.call(kind, at, size)
            except UnicodeDecodeError:
                break  # as Pillow does
        behind_pixels |= kind == b"IDAT"


def _png_chunks(file: IO[bytes]) -> Iterator[tuple[bytes, int, int]]:
    """Name, offset and size of each chunk's data, up to the end."""
    at = 8
    while len(head := _bytes_at(file, at, 8)) == 8:
        size, kind = struct.unpack(">I4s", head)
        if kind == b"IEND" or not CHUNK_NAME.match(kind):
            return
        yield kind, at + 8, size
        at += 12 + size


def _bytes_at(file: IO[bytes], at: int, size: int) -> bytes:
    file.seek(at)
    return file.read(size)
