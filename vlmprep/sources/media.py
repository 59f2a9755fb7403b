"""Media files: what their header says and whether they changed. Never decodes a pixel."""

from __future__ import annotations

import io
import os
import stat
import urllib.request
from dataclasses import dataclass
from typing import IO, cast

import xxhash
from PIL import Image

from vlmprep.schema.conversation import Media
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.media import ImageSize, Loader, MediaSize
from vlmprep.sources.headers import upright_size
from vlmprep.sources.locations import is_on_the_web, is_remote
from vlmprep.sources.wording import clipped

__all__ = ["DEFAULT_MAX_IMAGE_PIXELS", "MediaReader", "own_the_pixel_limit"]

DEFAULT_MAX_IMAGE_PIXELS = 89_478_485
"""Pillow's own warning threshold against decompression bombs: a quarter of a gigabyte of RGB."""
HEADER_BYTES = 16_384
"""Read at a time; most headers end before."""
WEB_SECONDS = 60
WEB_BYTES = 256 << 20
"""A server's answer is given up when it is silent for so long, or larger than this."""


def own_the_pixel_limit() -> None:
    """Take Pillow's global limit away in a process of ours: MediaReader's own holds before anything is decoded."""
    Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaReader:
    """Reads headers of media, within limits."""

    max_image_pixels: int = DEFAULT_MAX_IMAGE_PIXELS
    """Images whose header claims more are refused."""

    def state(self, medium: Media) -> int:
        """Digest of a medium's location, size and modification time; 0 for a file that cannot be looked at."""
        if medium.content is not None:
            return xxhash.xxh3_64_intdigest(medium.content)
        assert medium.location is not None
        where = os.fsencode(medium.location)
        if is_remote(medium.location):
            return xxhash.xxh3_64_intdigest(where)
        try:
            found = os.stat(medium.location)
        except OSError:
            return 0
        return xxhash.xxh3_64_intdigest(b"%b\0%d\0%d" % (where, found.st_size, found.st_mtime_ns))

    def size(self, medium: Media, loader: Loader) -> MediaSize:
        """Read what a medium's header says: an image's upright size, a clip's frames, a sound's length.

        Args:
            medium: The medium.
            loader: Which of the processors' loaders will decode it, where it is an image.

        Raises:
            RefuseSample: It cannot be used.
        """
        if medium.kind != "image":
            raise RefuseSample("unsupported-media", f"{clipped(medium.where)}: {medium.kind} is not packed yet")
        return self.image_size(medium, loader)

    def image_size(self, medium: Media, loader: Loader) -> ImageSize:
        """Read an image's upright size from its header.

        Args:
            medium: The image.
            loader: Which of the processors' loaders will decode it: they honour different orientation tags.

        Raises:
            RefuseSample: Missing, empty, no medium of this kind, above the pixel limit, or one that the loader does not read.
        """
        name = clipped(medium.where)
        with _opened(medium, name) as file:
            num_bytes = file.seek(0, os.SEEK_END)
            if num_bytes == 0:
                raise RefuseSample("empty-media", f"{name} is empty (0 bytes)")
            height, width = upright_size(file, name, loader, self.max_image_pixels)
        return ImageSize(height=height, width=width, num_bytes=num_bytes)


def _opened(medium: Media, name: str) -> IO[bytes]:
    if medium.content is not None:
        return io.BytesIO(medium.content)
    assert medium.location is not None
    try:
        return _fetched(medium.location) if is_remote(medium.location) else _regular_file(medium.location)
    except FileNotFoundError:
        raise RefuseSample("missing-media", f"{name} does not exist") from None
    except Exception as error:  # each file system behind a URL has errors of its own
        reason = error.strerror if isinstance(error, OSError) else None
        raise RefuseSample("unreadable-media", f"{name} cannot be read: {reason or error}") from error


def _regular_file(path: str) -> IO[bytes]:
    """Open a file; a pipe is not waited for, a folder or device is an error."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError("it is a folder, a pipe or a device")
    return open(handle, "rb", buffering=HEADER_BYTES)


def _fetched(url: str) -> IO[bytes]:
    if not is_on_the_web(url):
        import fsspec  # only where media are remote: its file systems are slow to import

        return cast(IO[bytes], fsspec.open(url, "rb").open())
    with urllib.request.urlopen(url, timeout=WEB_SECONDS) as answer:
        data = answer.read(WEB_BYTES + 1)
    if len(data) > WEB_BYTES:
        raise OSError(f"it is larger than {WEB_BYTES >> 20} MiB")
    return io.BytesIO(data)
