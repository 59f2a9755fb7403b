"""Containers of pictures and sound, opened by FFmpeg so that they open nothing else.

A playlist, a concat list or a session description is a "video" that names other files. Only demuxers that read one file
are let in, and whatever a demuxer wants to open beside it is refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, NoReturn

from vlmprep.mediafiles.mp4 import promised_bytes
from vlmprep.schema.errors import RefuseSample

if TYPE_CHECKING:
    from av.container import InputContainer

__all__ = ["FORMATS", "opened_container"]

FORMATS = ("mov", "matroska", "avi", "flv", "mpegts", "mpeg", "asf", "ogg", "gif")
"""FFmpeg's demuxers that are let in; mov reads mp4 too, matroska webm, asf wmv."""
BUFFER_BYTES = 1 << 18
"""Read at a time."""


@contextmanager
def opened_container(file: IO[bytes], name: str) -> Iterator[InputContainer]:
    """Open a container.

    Args:
        file: The encoded file, seekable; it stays open.
        name: What a person calls it.

    Raises:
        RefuseSample: It is none that is read, or broken; also where the block raises what broken files lead PyAV to.
    """
    import av  # slow to import, and only clips need it

    promised, num_bytes = promised_bytes(file), file.seek(0, os.SEEK_END)
    file.seek(0)
    if promised > num_bytes:
        raise RefuseSample("truncated-media", f"{name} has {num_bytes} bytes, its index promises {promised} at least")
    options = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "none"}
    try:
        container = av.open(
            file,
            "r",
            container_options=options,
            metadata_errors="ignore",
            buffer_size=BUFFER_BYTES,
            io_open=open_nothing,
        )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise RefuseSample(
            "not-a-video",
            f"{name} is no video that can be read (mp4, mov, mkv, webm, avi and a few more): {said(error)}",
        ) from error
    try:
        with container:
            yield container
    except (av.error.FFmpegError, EOFError, ValueError, ArithmeticError, MemoryError) as error:
        raise RefuseSample("undecodable-media", f"{name} does not decode: {said(error)}") from error


def said(error: Exception) -> str:
    """What FFmpeg said, without its number and its name for the file."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def open_nothing(url: str, flags: int, options: Any) -> NoReturn:
    """What FFmpeg calls to open a file beside the one it was given."""
    raise PermissionError(f"it names another file: {url}")
