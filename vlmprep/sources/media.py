"""Media files: where they may lie, what their header says, and their bytes. Never decodes a pixel."""

from __future__ import annotations

import functools
import io
import os
import struct
import warnings
from dataclasses import dataclass
from typing import IO, Any, cast

import xxhash
from PIL import Image, ImageFile, UnidentifiedImageError

from vlmprep.schema.conversation import Media
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.media import Loader, MediaSize

__all__ = ["DEFAULT_MAX_IMAGE_PIXELS", "MediaReader", "own_the_pixel_limit", "resolve_location"]

DEFAULT_MAX_IMAGE_PIXELS = 89_478_485
"""Pillow's own warning threshold against decompression bombs: a quarter of a gigabyte of RGB."""

ORIENTATION_TAG = 0x0112
SIDEWAYS = frozenset({5, 6, 7, 8})
"""EXIF orientations that swap height and width."""
TORCHVISION_FORMATS = frozenset({"JPEG", "PNG", "GIF", "WEBP"})
"""What torchvision.io.decode_image reads without extra packages."""
TORCHVISION_UPRIGHT_FORMATS = frozenset({"JPEG", "PNG"})
"""Of these, the formats whose EXIF orientation it applies; it ignores XMP and a PNG's eXIf chunk behind the pixels."""


def own_the_pixel_limit() -> None:
    """Take Pillow's global limit away in a process of ours: MediaReader's own holds before anything is decoded."""
    Image.MAX_IMAGE_PIXELS = None


def is_remote(location: str) -> bool:
    """Whether a location is a URL rather than a local path."""
    return "://" in location


def resolve_location(
    location: str, media_dir: str, *, allow_outside_media: bool = False, allow_remote_media: bool = False
) -> str:
    """Turn what a row says into an absolute path or URL that lies inside the media folder.

    Args:
        location: Path or URL from the row; relative paths start at `media_dir`.
        media_dir: Absolute path or URL of the media folder.
        allow_outside_media: Accept local paths anywhere.
        allow_remote_media: Accept http and https URLs.

    Raises:
        RefuseSample: The location is empty, escapes the folder (symbolic links included), or is remote and may not be.
    """
    if not location or "\0" in location:
        raise RefuseSample("bad-media-path", f"media path {location!r} is empty or holds a NUL byte")
    if location.startswith(("http://", "https://")):
        if not allow_remote_media:
            raise RefuseSample("remote-media", f"{location} is remote; pass --allow-remote-media to fetch such media")
        return location
    if is_remote(location) or is_remote(media_dir):
        return _resolve_url(location, media_dir)
    path = os.path.normpath(os.path.join(media_dir, location))
    if allow_outside_media:
        return path
    folder = _real_folder(media_dir)
    real = os.path.join(_real_folder(os.path.dirname(path)), os.path.basename(path))
    if os.path.islink(real):
        real = os.path.realpath(real)
    if real != folder and not real.startswith(folder.rstrip(os.sep) + os.sep):
        raise RefuseSample(
            "outside-media",
            f"{location!r} lies outside the media folder {media_dir}; pass --allow-outside-media if that is meant",
        )
    return path


def _resolve_url(location: str, media_dir: str) -> str:
    url = location if is_remote(location) else f"{media_dir.rstrip('/')}/{location}"
    if not url.startswith(media_dir.rstrip("/") + "/") or ".." in url.split("/"):
        raise RefuseSample("outside-media", f"{location!r} lies outside the media folder {media_dir}")
    return url


@functools.lru_cache(maxsize=65_536)
def _real_folder(path: str) -> str:
    return os.path.realpath(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaReader:
    """Reads headers and bytes of media, within limits."""

    max_image_pixels: int = DEFAULT_MAX_IMAGE_PIXELS
    """Images whose header claims more are refused."""

    def state(self, medium: Media) -> int:
        """Digest of a medium's location, size and modification time; 0 for a file that cannot be looked at."""
        if medium.content is not None:
            return xxhash.xxh3_64_intdigest(medium.content)
        assert medium.location is not None
        if is_remote(medium.location):
            return xxhash.xxh3_64_intdigest(os.fsencode(medium.location))
        try:
            found = os.stat(medium.location)
        except OSError:
            return 0
        where = os.fsencode(medium.location)
        return xxhash.xxh3_64_intdigest(b"%b\0%d\0%d" % (where, found.st_size, found.st_mtime_ns))

    def image_size(self, medium: Media, loader: Loader) -> MediaSize:
        """Read an image's upright size from its header.

        Args:
            medium: The image.
            loader: Which of the processors' loaders will decode it: they honour different orientation tags.

        Raises:
            RefuseSample: Missing, empty, no image, above the pixel limit, or of a kind that the loader does not read.
        """
        if medium.content is not None:
            return self._read_header(io.BytesIO(medium.content), medium, len(medium.content), loader)
        assert medium.location is not None
        try:
            with _open(medium.location) as file:
                return self._read_header(file, medium, _num_bytes(file), loader)
        except FileNotFoundError:
            raise RefuseSample("missing-media", f"{medium.location} does not exist") from None
        except RefuseSample:
            raise
        except OSError as error:
            raise RefuseSample(
                "unreadable-media", f"{medium.location} cannot be read: {error.strerror or error}"
            ) from error

    def _read_header(self, file: IO[bytes], medium: Media, num_bytes: int, loader: Loader) -> MediaSize:
        name = medium.location or "the image inside the row"
        if num_bytes == 0:
            raise RefuseSample("empty-media", f"{name} is empty (0 bytes)")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                image = Image.open(file)
        except UnidentifiedImageError:
            raise RefuseSample("not-an-image", f"{name} is not an image that can be read") from None
        except Image.DecompressionBombError as error:
            raise RefuseSample("image-too-large", f"{name}: {error}") from None
        except (OSError, SyntaxError, ValueError, struct.error) as error:
            raise RefuseSample("not-an-image", f"{name} has a broken header: {error}") from error
        width, height = image.size
        if width * height > self.max_image_pixels:
            raise RefuseSample(
                "image-too-large",
                f"{name} claims {width} x {height} pixels, above --max-image-pixels {self.max_image_pixels}",
            )
        _check_loader_reads(image, file, name, loader)
        if _orientation(image, file, loader) in SIDEWAYS:
            width, height = height, width
        return MediaSize(kind="image", height=height, width=width, num_bytes=num_bytes)


def _open(location: str) -> IO[bytes]:
    if is_remote(location):
        import fsspec  # only where media are remote: its file systems are slow to import

        return cast(IO[bytes], fsspec.open(location, "rb").open())
    return open(location, "rb", buffering=16_384)


def _num_bytes(file: IO[bytes]) -> int:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


def _check_loader_reads(image: ImageFile.ImageFile, file: IO[bytes], name: str, loader: Loader) -> None:
    if loader != "torchvision":
        return
    if image.format not in TORCHVISION_FORMATS:
        raise RefuseSample(
            "unread-format",
            f"{name} is {image.format}, which the processor's torchvision loader does not read "
            f"(it reads {', '.join(sorted(TORCHVISION_FORMATS))}); convert it, or use --image-backend pil",
        )
    if image.format == "GIF" and getattr(image, "is_animated", False):
        raise RefuseSample(
            "animated-image", f"{name} is an animated GIF, which the torchvision loader turns into a clip"
        )
    if image.format == "PNG" and _png_bit_depth(file) == 16:
        raise RefuseSample(
            "sixteen-bit-image",
            f"{name} is a 16-bit PNG; the torchvision loader hands on 16-bit values that the processor rescales as if "
            "they were 8-bit; convert it to 8 bits",
        )


def _png_bit_depth(file: IO[bytes]) -> int:
    at = file.tell()
    file.seek(24)  # signature 8, IHDR length and name 8, width and height 8
    depth = file.read(1)[0]
    file.seek(at)
    return depth


def _orientation(image: ImageFile.ImageFile, file: IO[bytes], loader: Loader) -> int:
    """The orientation tag that `loader` will apply, 1 for none."""
    exif = Image.Exif()
    try:
        if loader == "torchvision":
            if image.format in TORCHVISION_UPRIGHT_FORMATS:
                exif.load(cast(bytes, image.info.get("exif", b"")))
        elif image.format == "PNG":
            # PngImageFile.getexif() would decode the pixels to reach a chunk behind them.
            exif = Image.Image.getexif(image)
            if ORIENTATION_TAG not in exif and (late := _late_png_exif(file)):
                exif.load(b"Exif\0\0" + late)
        else:
            exif = image.getexif()
        return int(cast(Any, exif.get(ORIENTATION_TAG, 1)))
    except (OSError, SyntaxError, ValueError, TypeError, struct.error):
        return 1  # both loaders ignore a tag block that they cannot parse


def _late_png_exif(file: IO[bytes]) -> bytes:
    """The eXIf chunk that stands behind a PNG's pixels, found by walking the chunk headers."""
    at = 8
    while True:
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            return b""
        size, kind = struct.unpack(">I4s", head)
        if kind == b"eXIf":
            return file.read(size)
        if kind == b"IEND":
            return b""
        at += 12 + size
