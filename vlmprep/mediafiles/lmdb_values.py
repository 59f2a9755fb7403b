"""Images in LMDB: one value of a database as a seekable binary file, read out of the map as far as it is wanted.

    FOLDER::KEY          FOLDER/data.mdb, or a single file of any name; KEY is all behind the first "::", in UTF-8

A database is opened once in a process: for reading, without locks, without reading ahead. A process that was forked goes on
with the maps of its parent, one that was spawned opens its own. Which file changed is told by size and time of data.mdb.
"""

from __future__ import annotations

import io
import os
import stat
import threading
from collections import OrderedDict
from typing import IO, Any, TypeAlias

from vlmprep.schema.errors import RefuseSample

__all__ = ["data_file", "open_value", "split_key"]

MARK = "::"
DATA = "data.mdb"
MAX_OPEN = 64
"""Databases that a process keeps open."""
HEADER_BYTES = 16_384
"""Read at a time, as of files."""
State: TypeAlias = tuple[int, int, int, int]
"""Device, file, bytes, time of the last change."""


def split_key(location: str, folder: str = "") -> tuple[str, str | None]:
    """A location's path, and its key where it names a value of a database.

    Args:
        location: Path or URL; the colons of a URL mark no key, nor do those of a file that is there.
        folder: Where relative paths start.
    """
    path, mark, key = location.partition(MARK)
    if not mark or "://" in path or "://" in folder or os.path.lexists(os.path.join(folder, location)):
        return location, None
    return path, key


def data_file(path: str) -> str:
    """The file that holds a database's values."""
    return os.path.join(path, DATA) if os.path.isdir(path) else path


def open_value(path: str, key: str) -> IO[bytes]:
    """Open a value.

    Args:
        path: Absolute path of the database.
        key: Of the value.

    Raises:
        FileNotFoundError: There is no such database, or no such key in it.
        OSError: It cannot be read.
        RefuseSample: The package lmdb is not installed.
    """
    with _lock:
        database = _database(data_file(path))
        database.num_readers += 1
    try:
        return io.BufferedReader(StoredValue(database, key.encode()), HEADER_BYTES)
    except BaseException:
        database.release()
        raise


class Database:
    """One database.

    Args:
        file: Its data.mdb.
        state: What tells whether it changed.
    """

    def __init__(self, file: str, state: State) -> None:
        self.state = state
        self.num_readers = 0
        self._lmdb = _package(file)
        try:
            self._environment = self._lmdb.open(
                file, subdir=False, create=False, readonly=True, lock=False, readahead=False
            )
        except self._lmdb.Error as error:
            raise OSError(f"it is no LMDB that can be read: {error}") from error
        needed = (self._environment.info()["last_pgno"] + 1) * self._environment.stat()["psize"]
        if needed > state[2]:  # reading what is not there would end the process
            self.close()
            raise OSError(f"its {DATA} has {state[2]} bytes of {needed}: it was cut short")

    def value(self, key: bytes) -> tuple[Any, memoryview]:
        """A transaction, and the value of a key, which holds as long as it does."""
        try:
            transaction = self._environment.begin(buffers=True)
            found = transaction.get(key)
        except self._lmdb.Error as error:
            raise OSError(str(error)) from error
        if found is None:
            raise FileNotFoundError("there is no such key")
        if len(found) > self.state[2]:
            raise OSError("a value is larger than its file")
        return transaction, found

    def release(self) -> None:
        """One reader is done."""
        with _lock:
            self.num_readers -= 1

    def close(self) -> None:
        """Unmap it; values that are still read would end the process."""
        self._environment.close()


class StoredValue(io.RawIOBase):
    """A value as a file.

    Args:
        database: Counts this among its readers already.
        key: Of the value.
    """

    def __init__(self, database: Database, key: bytes) -> None:
        self._transaction, self._view = database.value(key)
        self._database = database
        self._at = 0

    def readable(self) -> bool:
        """As files have it."""
        return True

    def seekable(self) -> bool:
        """As files have it."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """As files have it."""
        found = self._view[self._at : self._at + len(buffer)]
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)

    def readall(self) -> bytes:
        """As files have it."""
        found = bytes(self._view[self._at :])
        self._at += len(found)
        return found

    def tell(self) -> int:
        """As files have it."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """As files have it."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: len(self._view)}[whence]
        if start + offset < 0:
            raise OSError("a place before the start")
        self._at = start + offset
        return self._at

    def close(self) -> None:
        """Let go of the map."""
        if not self.closed and hasattr(self, "_database"):
            self._view.release()
            self._transaction.abort()
            self._database.release()
        super().close()


_databases: OrderedDict[tuple[int, int], Database] = OrderedDict()
"""By device and file, as LMDB itself tells them apart; those last used at the end."""
_lock = threading.RLock()


def _forget_lock() -> None:
    """A thread of the parent may have held it."""
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_forget_lock)


def _database(file: str) -> Database:
    """The database in a file, opened unless it is open and unchanged."""
    found = os.stat(file)
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is a folder, a pipe or a device")
    state = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
    database = _databases.pop(state[:2], None)
    if database is not None and database.state != state:
        if database.num_readers:
            _databases[state[:2]] = database
            raise OSError("it changed while it was read")
        database.close()
        database = None
    _databases[state[:2]] = database = database or Database(file, state)
    _close_unused()
    return database


def _close_unused() -> None:
    """Close what was used longest ago, where too many are open."""
    excess = len(_databases) - MAX_OPEN
    idle = [place for place, database in list(_databases.items())[:-1] if not database.num_readers]
    for place in idle[: max(excess, 0)]:
        _databases.pop(place).close()


def _package(file: str) -> Any:
    try:
        import lmdb
    except ImportError:
        raise RefuseSample("unread-format", f"{file} is an LMDB, which takes `pip install 'vlmprep[lmdb]'`") from None
    return lmdb
