"""One file at a URL: what it is now, and the file itself, small ones whole and large ones piece by piece."""

from __future__ import annotations

import functools
import io
import os
from typing import IO, cast

from vlmprep.stores.folder import StoreFolder
from vlmprep.stores.retry import StoreTrouble
from vlmprep.stores.stored import Stored

__all__ = ["find", "look_at", "open_file"]

WHOLE_BYTES = 8 << 20
"""Up to this size a file is read at once: one request instead of many."""
BLOCK_BYTES = 2 << 20


def find(url: str) -> tuple[StoreFolder, str]:
    """The folder that a file lies in, and its name there."""
    folder, _, name = url.rpartition("/")
    return _folder(folder), name


def look_at(url: str) -> Stored | None:
    """What a store says of a file; None where there is none.

    Raises:
        StoreTrouble: It says nothing.
    """
    folder, name = find(url)
    return folder.look(name)


def open_file(url: str) -> IO[bytes]:
    """Open a file for reading and seeking.

    Raises:
        FileNotFoundError: There is none.
        OSError: It may not be read, or there is no such kind of URL.
        StoreTrouble: The store is in trouble, now or while it is read.
    """
    folder, name = find(url)
    try:
        found = folder.look(name)
        if found is None:
            raise FileNotFoundError(url)
        if found.size <= WHOLE_BYTES:
            return io.BytesIO(folder.read(name))
    except StoreTrouble as error:
        if error.lasting:
            raise OSError(error.message) from error
        raise
    return cast(IO[bytes], io.BufferedReader(_StoreFile(folder, name, found.size), BLOCK_BYTES))


class _StoreFile(io.RawIOBase):
    """A file of known size, read by ranges."""

    def __init__(self, folder: StoreFolder, name: str, size: int) -> None:
        self._folder, self._name, self._size, self._at = folder, name, size, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Where reading goes on."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go somewhere."""
        self._at = max(0, {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence] + offset)
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # io hands out memoryviews
        """Read some bytes."""
        wanted = max(0, min(len(buffer), self._size - self._at))
        data = self._folder.read_range(self._name, self._at, wanted)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


@functools.lru_cache(maxsize=4096)
def _folder(url: str) -> StoreFolder:
    return StoreFolder(url)
