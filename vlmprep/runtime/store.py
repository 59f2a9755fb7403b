"""Reading a pack set's files: from a local folder, or from any other place that fsspec knows (see `remote`)."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Protocol

from vlmprep.runtime.remote import DEFAULT_CACHE_BYTES, Part, RemoteStore
from vlmprep.shardformat.memory import pooled_empty
from vlmprep.stores.urls import is_url, local_path

__all__ = ["LocalStore", "Store", "open_store"]

_MAX_OPEN_FILES = 128
"""Shards that one process holds open."""


class Store(Protocol):
    """A folder of files, read whole or in parts; safe to use from threads, after a fork and after pickling."""

    where: str
    """The folder, for messages."""

    def sizes(self, names: Collection[str]) -> dict[str, int]:
        """Bytes of those files that are there."""

    def read(self, name: str) -> bytes:
        """A whole file.

        Raises:
            FileNotFoundError: There is none.
        """

    def read_part(self, part: Part) -> memoryview:
        """Exactly `part.size` bytes of a file, fewer only where the file ends.

        Raises:
            FileNotFoundError: There is none.
        """

    def read_ahead(self, parts: Sequence[Part]) -> None:
        """Begin to read what will be asked for soon, where waiting is what reading costs."""

    def forget(self, part: Part) -> bool:
        """Drop a copy of a part that proved wrong; whether reading it again may bring something else."""

    def file(self, name: str, size: int, sha256: str) -> Path | None:
        """A local file with the content of a whole file; None where there is none."""


def open_store(path: str | os.PathLike[str], cache_bytes: int = DEFAULT_CACHE_BYTES) -> Store:
    """The store of a local path or an fsspec URL.

    Args:
        path: The folder.
        cache_bytes: What the cache of remote files takes at most; 0: there is none.
    """
    text = os.fspath(path)
    return RemoteStore(text.rstrip("/"), cache_bytes) if is_url(text) else LocalStore(Path(local_path(text)))


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

    def sizes(self, names: Collection[str]) -> dict[str, int]:
        """Bytes of those files that are there."""
        found = {}
        for name in names:
            with suppress(FileNotFoundError, NotADirectoryError):
                found[name] = os.stat(f"{self.where}/{name}").st_size  # a Path for each would take longer than the rest
        return found

    def read(self, name: str) -> bytes:
        """A whole file."""
        return (self.root / name).read_bytes()

    def read_part(self, part: Part) -> memoryview:
        """Exactly `part.size` bytes of a file, fewer only where the file ends."""
        file = self._file(part.name)
        data = memoryview(pooled_empty((part.size,)).data)
        done = 0
        while done < part.size and (count := os.preadv(file.descriptor, [data[done:]], part.offset + done)):
            done += count
        return data[:done]

    def read_ahead(self, parts: Sequence[Part]) -> None:
        """Nothing: the operating system does."""

    def forget(self, part: Part) -> bool:
        """There are no copies."""
        return False

    def file(self, name: str, size: int, sha256: str) -> Path:
        """The file itself."""
        return self.root / name

    def _file(self, name: str) -> _OpenFile:
        with self._lock:
            file = self._open.pop(name, None) or _OpenFile(os.open(self.root / name, os.O_RDONLY))
            self._open[name] = file
            if len(self._open) > _MAX_OPEN_FILES:
                self._open.popitem(last=False)
        return file
