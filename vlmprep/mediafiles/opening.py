"""A medium as a seekable binary file, wherever it lies; a pipe, folder or device is not waited for."""

from __future__ import annotations

import io
import os
import stat
import urllib.request
from typing import IO

from vlmprep.mediafiles.lmdb_values import open_value
from vlmprep.schema.conversation import Media
from vlmprep.stores.file import open_file

__all__ = ["is_on_the_web", "is_remote", "open_medium"]

WEB = ("http://", "https://")
WEB_SECONDS = 60
WEB_BYTES = 256 << 20
"""A server's answer is given up when it is silent for so long, or larger than this."""
HEADER_BYTES = 16_384
"""Read at a time; most headers end before."""


def is_remote(location: str) -> bool:
    """Whether a location is a URL rather than a local path."""
    return "://" in location


def is_on_the_web(location: str) -> bool:
    """Whether a location is fetched from a server that a row may name freely."""
    return location.startswith(WEB)


def open_medium(medium: Media) -> IO[bytes]:
    """Open a medium that has a location or a content.

    Raises:
        OSError: It is not there, no regular file, or a server does not give it; file systems behind other URLs raise
            what they like.
        RefuseSample: It lies in an LMDB, and the package lmdb is not installed.
    """
    if medium.content is not None:
        return io.BytesIO(medium.content)
    assert medium.location is not None, "a list of images is no file"
    if medium.key is not None:
        return open_value(medium.location, medium.key)
    return fetched(medium.location) if is_remote(medium.location) else regular_file(medium.location)


def regular_file(path: str) -> IO[bytes]:
    """Open a file; a pipe is not waited for, a folder or device is an error."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError("it is a folder, a pipe or a device")
    return open(handle, "rb", buffering=HEADER_BYTES)


def fetched(url: str) -> IO[bytes]:
    """Open what a URL names: whole where a server sends it, piece by piece in file systems."""
    if not is_on_the_web(url):
        return open_file(url)
    with urllib.request.urlopen(url, timeout=WEB_SECONDS) as answer:
        data = answer.read(WEB_BYTES + 1)
    if len(data) > WEB_BYTES:
        raise OSError(f"it is larger than {WEB_BYTES >> 20} MiB")
    return io.BytesIO(data)
