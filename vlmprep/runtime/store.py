"""Reading a pack set's files: from a local folder, or from any other place that fsspec knows."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np

from vlmprep.shardformat.memory import pooled_empty

__all__ = ["LocalStore", "RemoteStore", "Store", "open_store"]

_MAX_OPEN_FILES = 128
"""Shards that one process holds open."""


class Store(Protocol):
    """A folder of files, read whole or in parts; safe to use from threads, after a fork and after pickling."""

    where: str
    """The folder, for messages."""

    def size(self, name: str) -> int | None:
        """Bytes of a file, None where there is none."""

    def read(self, name: str) -> bytes:
        """A whole file.

        Raises:
            FileNotFoundError: There is none.
        """

    def read_range(self, name: str, offset: int, size: int) -> memoryview:
        """Exactly `size` bytes of a file from `offset` on, fewer only where the file ends."""


def open_store(path: str | os.PathLike[str]) -> Store:
    """The store of a local path or an fsspec URL."""
    text = os.fspath(path)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    return RemoteStore(text) if "://" in text else LocalStore(Path(text))


class _OpenFile:
    """A file descriptor that closes when its last user lets go of it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)


class LocalStore:
    """A folder of the local file system; descriptors stay open, reads never move a file position."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.where = str(root)
        self._open: OrderedDict[str, _OpenFile] = OrderedDict()
        self._lock = Lock()

    def __reduce__(self) -> tuple[type[LocalStore], tuple[Path]]:
        return LocalStore, (self.root,)

    def size(self, name: str) -> int | None:
        """Bytes of a file, None where there is none."""
        try:
            return (self.root / name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read(self, name: str) -> bytes:
        """A whole file."""
        return (self.root / name).read_bytes()

    def read_range(self, name: str, offset: int, size: int) -> memoryview:
        """Exactly `size` bytes of a file from `offset` on, fewer only where the file ends."""
        file = self._file(name)
        data = memoryview(pooled_empty((size,)).data)
        done = 0
        while done < size and (count := os.preadv(file.descriptor, [data[done:]], offset + done)):
            done += count
        return data[:done]

    def _file(self, name: str) -> _OpenFile:
        with self._lock:
            file = self._open.pop(name, None) or _OpenFile(os.open(self.root / name, os.O_RDONLY))
            self._open[name] = file
            if len(self._open) > _MAX_OPEN_FILES:
                self._open.popitem(last=False)
        return file


class RemoteStore:
    """A folder at an fsspec URL; every read is one request."""

    def __init__(self, url: str) -> None:
        self.where = url
        self._files: tuple[int, Any, str] | None = None

    def __reduce__(self) -> tuple[type[RemoteStore], tuple[str]]:
        return RemoteStore, (self.where,)

    def size(self, name: str) -> int | None:
        """Bytes of a file, None where there is none."""
        files, root = self._connect()
        try:
            return int(files.size(f"{root}/{name}"))
        except FileNotFoundError:
            return None

    def read(self, name: str) -> bytes:
        """A whole file."""
        files, root = self._connect()
        data: bytes = files.cat_file(f"{root}/{name}")
        return data

    def read_range(self, name: str, offset: int, size: int) -> memoryview:
        """Exactly `size` bytes of a file from `offset` on, fewer only where the file ends."""
        files, root = self._connect()
        return memoryview(np.frombuffer(files.cat_file(f"{root}/{name}", offset, offset + size), np.uint8).copy().data)

    def _connect(self) -> tuple[Any, str]:
        """This process's own file system: connections do not survive a fork."""
        if self._files is None or self._files[0] != os.getpid():
            import fsspec  # local pack sets are read without it

            files, root = fsspec.core.url_to_fs(self.where)
            self._files = (os.getpid(), files, root.rstrip("/"))
        return self._files[1], self._files[2]
