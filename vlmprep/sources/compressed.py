"""Text files that were compressed, .gz and .zst, as plain copies in which rows have places."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import IO, cast

import zstandard

from vlmprep.schema.errors import StopRun
from vlmprep.sources.copies import plain_copy

__all__ = ["COMPRESSED", "uncompressed"]

COMPRESSED = (".gz", ".zst")
BLOCK_BYTES = 4 << 20
MAX_WINDOW_BYTES = 2 << 30
"""Of zstd's `--long=31`; what it needs in memory to unpack."""


def uncompressed(path: str) -> str:
    """Path of a plain copy of a .gz or .zst file.

    Raises:
        StopRun: The file is broken or ends too early.
    """
    return plain_copy(path, ".rows", lambda attempt: _unpack(path, attempt))


def _unpack(path: str, attempt: Path) -> None:
    with _opened(path) as source, attempt.open("wb") as copy:
        while block := _block(source, path, copy.tell()):
            copy.write(block)


def _opened(path: str) -> IO[bytes]:
    if path.endswith(".gz"):
        return cast(IO[bytes], gzip.open(path, "rb"))
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    return cast(IO[bytes], _WholeFrames(path, decompressor))


class _WholeFrames:
    """All frames of a .zst file, one behind the other; one that is cut short is an error, which zstandard's reader hides."""

    def __init__(self, path: str, decompressor: zstandard.ZstdDecompressor) -> None:
        self._file = open(path, "rb")  # noqa: SIM115 - closed by __exit__
        self._decompressor = decompressor
        self._frame = decompressor.decompressobj()
        self._rest = b""
        self._begun = False

    def __enter__(self) -> _WholeFrames:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        """Some bytes, none at the end."""
        while packed := self._rest or self._file.read(size >> 3):
            if self._frame.eof:
                self._frame = self._decompressor.decompressobj()
            data = self._frame.decompress(packed)
            self._rest, self._begun = self._frame.unused_data if self._frame.eof else b"", not self._frame.eof
            if data:
                return data
        if self._begun:
            raise EOFError("it ends within a frame")
        return b""


def _block(source: IO[bytes], path: str, done: int) -> bytes:
    try:
        return source.read(BLOCK_BYTES)
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise StopRun(
            f"{path} cannot be unpacked behind byte {done} of its content: {error}",
            "It is broken or ends too early: get it again.",
        ) from error
