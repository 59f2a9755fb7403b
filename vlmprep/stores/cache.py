"""A bounded cache on the local disk that all processes of a host share: parts of remote files, whole or not there.

An entry is named by the digest of everything that tells its content apart (full URL, digest of the file, place in it), so that
nothing collides and nothing grows old. `.used` holds the bytes of all entries, those being written included, and is locked while
it is read and written: whatever the number of processes, entries never take more than the bound. What was used longest ago goes
first. Trouble with the disk is never the reader's: it then reads from the store.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["DiskCache", "entry_name"]

USED = ".used"
ROOM = 16
"""One part in so many is freed at a time, so that not every entry costs a look at all of them."""


def entry_name(*parts: str | int) -> str:
    """The name of an entry, from all that tells its content apart."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:40]


class DiskCache:
    """Entries in one folder.

    Args:
        folder: Made when the first entry is kept.
        max_bytes: What all entries take at most.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes

    def find(self, name: str, size: int) -> Path | None:
        """The file of an entry; None where there is none of this size."""
        path = self.folder / name
        try:
            if path.stat().st_size != size:
                return None
            os.utime(path)
        except OSError:
            return None
        return path

    def keep(self, name: str, content: bytes | memoryview) -> Path | None:
        """Make an entry.

        Returns:
            Its file; None where it is larger than the bound, or the disk does not take it.
        """
        size = len(content)
        if size > self.max_bytes:
            return None
        attempt = self.folder / f".{name}.{os.getpid()}-{threading.get_ident()}.tmp"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._reserved(attempt, size), attempt.open("r+b", buffering=0) as file:
                view = memoryview(content)
                while len(view):
                    view = view[file.write(view) :]
            os.replace(attempt, self.folder / name)
        except OSError:  # a full or read-only disk; or the entry was pushed out while it was written
            with suppress(OSError):
                attempt.unlink(missing_ok=True)
            return None
        return self.folder / name

    def drop(self, name: str) -> bool:
        """Remove an entry; whether there was one."""
        try:
            with self._locked() as file:
                size = (self.folder / name).stat().st_size
                (self.folder / name).unlink()
                _write_number(file, (_read_number(file) or 0) - size)
        except OSError:
            return False
        return True

    @contextmanager
    def _reserved(self, attempt: Path, size: int) -> Iterator[None]:
        """A file of the final size, counted, for which others have made room."""
        with self._locked() as file:
            used = _read_number(file)
            if used is None or used + size > self.max_bytes:
                used = self._make_room(size)
            with attempt.open("wb") as empty:
                empty.truncate(size)
            _write_number(file, used + size)
        yield

    def _make_room(self, size: int) -> int:
        """Remove what was used longest ago until there is room; returns the bytes of what stays."""
        entries = []
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):
                found = path.stat()
                if path.name != USED:
                    entries.append((found.st_mtime_ns, found.st_size, path))
        used = sum(entry[1] for entry in entries)
        wanted = self.max_bytes - size
        if used > wanted:
            wanted = max(0, wanted - self.max_bytes // ROOM)
        for _, own, path in sorted(entries):
            if used <= wanted:
                break
            with suppress(FileNotFoundError):
                path.unlink()
            used -= own
        return used

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The file of the bytes used, for this process and thread alone."""
        file = os.open(self.folder / USED, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
        finally:
            os.close(file)


def _read_number(file: int) -> int | None:
    """Bytes used; None where nobody wrote them down, or somebody died at it."""
    text = os.pread(file, 64, 0)
    return int(text) if text.isdigit() else None


def _write_number(file: int, number: int) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, b"%d" % max(number, 0), 0)
